"""`tutelage serve` as a process of its own: where it listens, what SIGTERM does to answers that are being written."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tutelage.serve.running import Address, listen

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "temperature": 0}


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """The process, its address, and what it says, as it comes."""
    command = [sys.executable, "-m", "tutelage", "serve", *arguments, "--port", "0", "--precision", "fp32"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    said: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        for line in process.stderr or ():
            said.append(line)
            if " on http" in line:
                ready.set()
        ready.set()

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    try:
        assert ready.wait(90)
        address = re.search(r" on (http://\S+)", "".join(said))
        assert address, said
        yield process, address[1], said
    finally:
        process.kill()
        process.wait(30)
        reader.join(30)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_end_takes_no_more_and_tells_what_was_served(
    stop: signal.Signals, model_folder: Callable[[str], Path]
) -> None:
    with serving(str(model_folder("llama")), "--json") as (process, url, _):
        name = httpx.get(f"{url}v1/models").json()["data"][0]["id"]
        events = []
        with httpx.stream(
            "POST", f"{url}v1/chat/completions", json={**CHAT, "model": name, "max_tokens": 400}, timeout=60
        ) as answer:
            for line in answer.iter_lines():
                if line:
                    events.append(line.removeprefix("data: "))
                if len(events) == 3:
                    process.send_signal(stop)
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] in ("stop", "length")
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}health")
        result = json.loads(out)
        assert result["requests"] == {"200": 2}
        assert result["tokens"]


def test_a_key_is_wanted_and_told_where_others_can_reach_it(model_folder: Callable[[str], Path]) -> None:
    with serving(str(model_folder("llama")), "--host", "0.0.0.0") as (process, url, said):
        port = httpx.URL(url).port
        local = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{local}/v1/models").status_code == 401
        key = re.search(r"key: (\S+)", "".join(said))
        assert key
        assert httpx.get(f"{local}/v1/models", headers={"Authorization": f"Bearer {key[1]}"}).status_code == 200
        assert httpx.get(f"{local}/health").json() == {"status": "ok"}
        taken = subprocess.run(
            [sys.executable, "-m", "tutelage", "serve", str(model_folder("llama")), "--port", str(port)],
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip
        assert taken.returncode == 73
        assert "cannot listen here" in taken.stderr
        assert "Traceback" not in taken.stderr
        process.terminate()
        assert process.wait(60) == 0


def test_no_answer_waits_for_the_clients_acknowledgement() -> None:
    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen(Address("127.0.0.1", 0, None))
        async with await asyncio.start_server(note, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            nodelay = await found
            writer.close()
        return nodelay

    assert asyncio.run(accepted()) != 0
