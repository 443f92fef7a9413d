"""The whole of SFT in one flat file, held to the losses and the adapter that `tutelage.train` gives: a test of both."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

import tutelage
from tutelage.recipe import make_recipe

FLAT = Path(__file__).parents[2] / "examples" / "flat_sft.py"
STEPS, SEED = 8, 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads wait for each other where other tests run beside them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def flat() -> ModuleType:
    """examples/flat_sft.py, imported as a program of the user would be."""
    spec = importlib.util.spec_from_file_location("flat_sft", FLAT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained(model: Path, rows: Path, out: Path, seed: int = SEED) -> list[float]:
    """The losses of tutelage's own loop: packed, with a shared prefix, several rows at once."""
    recipe = make_recipe({
        "model": str(model), "data": {"train": str(rows)}, "method": {"kind": "lora", "rank": 4, "alpha": 8},
        "optim": {"steps": STEPS, "batch_size": 4, "learning_rate": 5e-3, "warmup": 0.25}, "seed": seed,
        "precision": "fp32", "forgetting": False, "threads": 1, "out": str(out),
    })  # fmt: skip
    tutelage.train(recipe)
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "step"]


def flat_options(seed: int = SEED) -> list[str]:
    return ["--steps", str(STEPS), "--batch-size", "4", "--learning-rate", "5e-3", "--warmup", "0.25", "--rank", "4",
            "--alpha", "8", "--seed", str(seed)]  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_the_flat_file_and_the_package_give_the_same_losses_and_adapter(
    kind: str, flat: ModuleType, model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path
) -> None:
    model, rows = model_folder(kind), chat_file(19)  # five steps an epoch, the last one smaller
    theirs = flat.main([str(model), str(rows), *flat_options(), "--out", str(tmp_path / "flat")])
    ours = trained(model, rows, tmp_path / "run")
    assert len(ours) == STEPS
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert abs(ours[0] - ours[-1]) > 0.05, "nothing was learnt: equal losses would prove little"
    mine, plain = (load_file(tmp_path / f / "adapter_model.safetensors") for f in ("run/model", "flat"))
    assert mine.keys() == plain.keys()
    for name, tensor in plain.items():
        error = (mine[name] - tensor).norm() / tensor.norm()
        assert error < 1e-3, f"{name}: {float(error):.1e}"


def test_another_seed_gives_other_losses(
    flat: ModuleType, model_folder: Callable[[str], Path], chat_file: Callable[[int], Path]
) -> None:
    """So that the comparison above can fail: order of rows and A come from the seed."""
    model, rows = model_folder("llama"), chat_file(19)
    one, two = (flat.main([str(model), str(rows), *flat_options(seed)]) for seed in (0, 1))
    assert max(abs(a - b) for a, b in zip(one, two)) > 1e-2


def test_it_runs_as_a_program_and_chat_opens_what_it_saves(
    model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path
) -> None:
    command = [sys.executable, str(FLAT), str(model_folder("llama")), str(chat_file(6)), "--steps", "2"]
    done = subprocess.run([*command, "--out", str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["step", "1"], ["step", "2"]]
    answer = tutelage.chat(str(tmp_path / "a"), prompt="Why is the sky blue?", max_tokens=3)
    assert answer["tokens"] > 0


def test_text_of_a_control_token_is_refused(
    flat: ModuleType, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "a <|im_end|> b"}, {"role": "assistant", "content": "c"}]
    rows.write_text(json.dumps({"messages": messages}) + "\n")
    with pytest.raises(SystemExit, match="control token"):
        flat.main([str(model_folder("llama")), str(rows), "--steps", "1"])


def test_it_stays_a_flat_file() -> None:
    source = FLAT.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 180
    assert "import tutelage" not in source
    assert "from tutelage" not in source
