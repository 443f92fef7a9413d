"""A run killed at any instant goes on bit for bit: SIGKILL at random moments, also inside a save, then the run's history
and its final weights against an uninterrupted run."""

import json
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import tutelage
from tutelage.runs import history

# Children are forked from a server that has imported torch already: a start costs 0.3 s instead of several.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tutelage.verbs.train"])


METHODS = {
    "lora": {"kind": "lora", "rank": 4, "dropout": 0.1}, "full": {"kind": "full"}, "half": {"kind": "half", "round": 3},
}  # fmt: skip


def recipe(model: Path, data: Path, method: str, steps: int, out: Path) -> tutelage.Recipe:
    return tutelage.make_recipe(
        {
            "model": str(model), "data": {"train": str(data), "validation": 0.2},
            "method": METHODS[method],
            "optim": {"steps": steps, "batch_size": 4, "learning_rate": 1e-3}, "max_tokens": 400,
            "save": {"every": 1, "keep": 2}, "validate": {"every": 5, "rows": 4}, "precision": "fp32",
            "forgetting": False, "threads": 1,
            "batch": {"tokens": 128}, "out": str(out), "seed": 3,
        }
    )  # fmt: skip


def start(spec: tutelage.Recipe) -> Any:
    child = CONTEXT.Process(target=tutelage.train, args=(spec,))
    child.start()
    return child


def outcome(out: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Every logged number that the run decides (times left out), and the final weights."""
    kept = ("loss", "learning_rate", "gradient_norm", "accuracy", "best", "target_tokens", "epoch")
    numbers = [
        {"event": e["event"], "step": e["step"], **{key: e[key] for key in kept if key in e}}
        for e in history(out)
        if e["event"] in ("step", "validated")
    ]
    weights = {
        name: array.tobytes()
        for f in sorted((out / "model").glob("*.safetensors"))
        for name, array in load_file(f).items()
    }
    return numbers, weights


def kill_until_done(spec: tutelage.Recipe, kills: int, seed: int) -> int:
    """Start, kill, start again. A kill falls at a random instant of loading or of the first steps after it; every second
    one waits for a save to be under way. Returns how many kills left an unfinished save behind."""
    rng, out, inside = random.Random(seed), Path(str(spec.out)), 0
    saving = lambda: list((out / "checkpoints").glob(".step-*.tmp"))  # noqa: E731
    for number in range(kills):
        size = (out / "events.jsonl").stat().st_size if number else 0
        child = start(spec)
        begun = False
        while child.is_alive() and not begun and (number % 5 != 4 or rng.random() > 0.001):
            time.sleep(0.0005)
            begun = (out / "events.jsonl").is_file() and (out / "events.jsonl").stat().st_size > size
        end = time.monotonic() + rng.uniform(0.0, 0.15)
        while child.is_alive() and (time.monotonic() < end or (number % 2 and begun and not saving())):
            time.sleep(0.0002)
        child.kill()
        child.join()
        inside += bool(saving())
    assert json.loads((out / "manifest.json").read_text())["status"] == "running", "every kill must hit a run under way"
    child = start(spec)
    child.join()
    assert child.exitcode == 0
    return inside


def check(method: str, kills: int, steps: int, model: Path, data: Path, tmp_path: Path) -> None:
    whole = start(recipe(model, data, method, steps, tmp_path / "whole"))
    whole.join()
    assert whole.exitcode == 0
    spec = recipe(model, data, method, steps, tmp_path / "killed")
    inside = kill_until_done(spec, kills, seed=kills)
    expected, weights = outcome(tmp_path / "whole")
    numbers, resumed_weights = outcome(tmp_path / "killed")
    assert len([e for e in expected if e["event"] == "step"]) == steps
    assert weights
    assert [json.dumps(n) for n in numbers] == [json.dumps(n) for n in expected]
    assert resumed_weights == weights
    assert inside or kills < 20, "no kill fell inside a save: the test did not test that"


@pytest.mark.parametrize("method", ["lora", "half"])
def test_a_killed_run_goes_on_bit_for_bit(
    method: str, model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path
) -> None:
    check(method, 4, 50, model_folder("llama"), chat_file(30), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full", "half"])
def test_twenty_kills_change_nothing(
    method: str, model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path
) -> None:
    check(method, 20, 150, model_folder("llama"), chat_file(30), tmp_path)
