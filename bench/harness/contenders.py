"""The contenders by name, the commands that start them, and one measured run of a command."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.memory import Measured, run_measured

BENCH = Path(__file__).resolve().parents[1]
ROOT = BENCH.parent
BATCH = 8
LEARNING_RATE = {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5}


@dataclass(frozen=True)
class Contender:
    """One tool in one configuration. `flags` go to its script in bench/peers; `note` says what it is."""

    tool: str
    flags: tuple[str, ...]
    note: str

    @property
    def micro_batches(self) -> int:
        """Forward passes per optimiser step."""
        flags = list(self.flags)
        return BATCH // int(flags[flags.index("--micro-batch") + 1]) if "--micro-batch" in flags else 1


ONE = ("--micro-batch", "1")
CONTENDERS: dict[str, Contender] = {
    "tutelage": Contender("tutelage", (), "ours, `precision: auto`"),
    "tutelage-int4": Contender("tutelage", ("--set", "method.quant_type=int4"), "ours, `quant_type: int4`"),
    "trl-autocast": Contender("trl", ("--precision", "autocast"), "fp32 weights, bf16 autocast, 8 rows padded"),
    "trl-autocast-8x1": Contender("trl", ("--precision", "autocast", *ONE), "the same, 1 row per pass, 8 accumulated"),
    "trl-bf16": Contender("trl", ("--precision", "bf16"), "bf16 weights, 8 rows padded"),
    "trl-bf16-8x1": Contender("trl", ("--precision", "bf16", *ONE), "bf16 weights, 1 row per pass, 8 accumulated"),
    "trl-padding-free": Contender("trl", ("--precision", "bf16", "--padding-free"), "bf16 weights, 8 rows on one axis"),
    "trl-padding-free-autocast": Contender("trl", ("--precision", "autocast", "--padding-free"), "the same, autocast"),
    "trl-fp32": Contender("trl", ("--precision", "fp32"), "fp32, 8 rows padded"),
    "trl-fp32-8x1": Contender("trl", ("--precision", "fp32", *ONE), "fp32, 1 row per pass, 8 accumulated"),
    "litgpt": Contender("litgpt", ("--precision", "bf16-true"), "bf16-true, 8 rows padded"),
    "litgpt-8x1": Contender("litgpt", ("--precision", "bf16-true", *ONE), "bf16-true, 1 row per pass, 8 accumulated"),
    "llamafactory": Contender("llamafactory", ("--precision", "bf16"), "bf16, 8 rows padded"),
    "llamafactory-8x1": Contender("llamafactory", ("--precision", "bf16", *ONE), "bf16, 1 row per pass, 8 accumulated"),
    "limit": Contender("limit", (), "the matrix products and attention alone"),
}


def beside(name: str) -> Path:
    """The folder `name` in the nearest folder above the repository that has one; where none has, beside the repository."""
    return next((parent / name for parent in ROOT.parents if (parent / name).is_dir()), ROOT.parent / name)


def environment(threads: int) -> dict[str, str]:
    """The environment of every measured process, ours and the peers' alike."""
    quiet = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": str(threads)}


def peer_python(peers: Path, tool: str) -> Path:
    """The python of a peer's own environment."""
    return peers / tool / "bin" / "python"


def command(
    name: str, *, method: str, model: str, rows: Path, out: Path, threads: int, peers: Path, seed: int = 0,
    max_steps: int | None = None,
) -> list[str]:  # fmt: skip
    """What starts a contender; it writes what it trained, and its figures, into `out`."""
    contender = CONTENDERS[name]
    if contender.tool == "tutelage":
        settings = {"model": model, "data.train": rows, "seed": seed, "threads": threads}
        if max_steps:
            settings["optim.steps"] = max_steps
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        recipe = str(BENCH / "recipes" / f"{method}.yaml")
        return [sys.executable, "-m", "tutelage", "train", recipe, *sets, *contender.flags, "--out", str(out), "--json"]
    given = ["--model", model, "--train", str(rows), "--out", str(out), "--method", method]
    if contender.tool == "limit":
        return [sys.executable, str(BENCH / "speed" / "limit.py"), *given]
    given += ["--seed", str(seed), "--learning-rate", str(LEARNING_RATE[method]), *contender.flags]
    if max_steps:
        given += ["--max-steps", str(max_steps)]
    return [str(peer_python(peers, contender.tool)), str(BENCH / "peers" / f"train_{contender.tool}.py"), *given]


@dataclass(frozen=True)
class Ended:
    """A command that ended: how, when it was started (Unix time), and where its output is."""

    measured: Measured
    started: float
    log: Path


def run(arguments: list[str], out: Path, threads: int, timeout: float | None = None) -> Ended:
    """Run a command, measured; its output goes to `out`.log. A folder `out` that is there already is the caller's matter."""
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.with_name(out.name + ".log")
    print("$", " ".join(arguments), file=sys.stderr, flush=True)
    started = time.time()
    return Ended(run_measured(arguments, log, environment(threads), timeout), started, log)


def fresh(out: Path) -> Path:
    """`out`, with nothing there."""
    shutil.rmtree(out, ignore_errors=True)
    return out


def answer(arguments: list[str], threads: int) -> Any:
    """The JSON document that a command prints."""
    done = subprocess.run(arguments, stdout=subprocess.PIPE, env=environment(threads), check=True, text=True)
    return json.loads(done.stdout)


def default_model(threads: int) -> str:
    """The folder of the catalogue's smollm2-135m, fetched where it is not there."""
    get = [sys.executable, "-m", "tutelage", "models", "get", "smollm2-135m", "--json"]
    return str(answer(get, threads)["path"])
