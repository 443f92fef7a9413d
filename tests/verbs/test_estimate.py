"""The verb: parts that add up, other machines, data that are not here, what cannot fit, and a probe that is a real process."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tutelage.engine.memory import Room
from tutelage.errors import OutOfMemoryError, UsageError
from tutelage.recipe import Recipe, make_recipe
from tutelage.runs import plain
from tutelage.show import show_estimate
from tutelage.train.estimate import Work
from tutelage.train.imagined import ROWS
from tutelage.train.machines import MACHINES, Machine
from tutelage.train.material import gather
from tutelage.train.probe import Probed
from tutelage.train.proposals import lighter, proposals, refuse_what_cannot_fit
from tutelage.train.setup import choose_plan
from tutelage.train.sketch import lengths_of, sketched
from tutelage.verbs.estimate import estimate
from tutelage.verbs.train import train

MIB = 2**20


@pytest.fixture
def recipe(model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path) -> Recipe:
    return make_recipe({
        "model": str(model_folder("llama")), "data": {"train": str(chat_file(12)), "validation": 0.2}, "method": "full",
        "optim": {"steps": 2, "batch_size": 4}, "max_tokens": 400, "precision": "fp32", "threads": 1,
        "out": str(tmp_path / "run"),
    })  # fmt: skip


def test_parts_add_up_and_the_run_reports_the_same(recipe: Recipe) -> None:
    found = estimate(recipe)
    memory = found["memory"]
    assert found["ok"]
    assert sum(memory["parts_mib"].values()) == pytest.approx(memory["peak_mib"], abs=1)
    assert found["steps"] == 2
    assert 0 < found["seconds"]["low"] < found["seconds"]["high"]
    assert all(line for line in show_estimate(plain(found)))
    run = train(recipe)
    without = memory["peak_mib"] - memory["parts_mib"]["process"]
    own = json.loads((Path(run["run"]) / "manifest.json").read_text())["estimate"]
    assert run["estimated_peak_mib"] == own["peak_mib"]
    assert own["peak_mib"] - own["parts_mib"]["process"] == pytest.approx(without, abs=1)
    assert run["estimated_seconds"] == own["seconds"]
    assert 0 < own["seconds"][0] < own["seconds"][1]
    report = (Path(run["run"]) / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r"(?:steps|epochs?|>)[^<]*estimated [^<]+<", report)) >= 3  # time, memory, disk


def test_disk_is_what_the_run_writes(recipe: Recipe) -> None:
    disk = estimate(recipe)["disk_mib"]
    run = Path(train(recipe)["run"])
    last = max((run / "checkpoints").iterdir())
    written = (last / "tensors.safetensors").stat().st_size / MIB
    assert disk["checkpoints"] == pytest.approx(2 * disk["writing"], abs=0.2)
    assert disk["writing"] == pytest.approx(written, abs=0.2)
    assert disk["model"] == pytest.approx((run / "model" / "model.safetensors").stat().st_size / MIB, abs=0.2)
    assert disk["calibrated"] == 0


def test_a_calibrated_base_stands_on_disk_twice(recipe: Recipe) -> None:
    method = {"kind": "qlora", "rank": 4, "block_size": 16, "calibrate": 2, "init": "qera"}
    qlora = make_recipe({**recipe.model_dump(mode="json"), "method": method})
    disk = estimate(qlora)["disk_mib"]
    run = train(qlora)
    files = [Path(run["run"]) / name for name in ("nf4.safetensors", "model/nf4.safetensors")]
    assert disk["calibrated"] == pytest.approx(sum(file.stat().st_size for file in files) / MIB, abs=0.05)
    assert run["estimated_disk_mib"] == pytest.approx(disk["checkpoints"] + disk["model"] + disk["calibrated"], abs=0.2)


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_another_machine_needs_not_be_here(recipe: Recipe, name: str) -> None:
    found = estimate(recipe, machine=name)
    assert found["ok"]
    assert found["machine"]["gflops"] > 0
    assert (found["memory"]["parts_mib"]["process"] == 0) == name.endswith("gpu")


def test_an_unknown_machine_is_named_with_the_nearest(recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="24gb-gpu"):
        estimate(recipe, machine="24gb-gpus")


def test_a_model_without_weights_and_data_that_are_not_here_are_enough(recipe: Recipe, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    shutil.copytree(recipe.model, headers, ignore=shutil.ignore_patterns("*.safetensors"))
    missing = recipe.model_copy(update={"model": str(headers), "data": recipe.data.model_copy(
        update={"train": (recipe.data.train[0].model_copy(update={"path": "none.jsonl"}),), "validation": None})})  # fmt: skip
    found = estimate(missing)
    assert found["rows"] == {"count": 4, "assumed": True, "longest": 400, "per_step": 4}


def test_every_task_has_imagined_rows() -> None:
    assert set(ROWS) == {"chat", "classify", "tag", "extract", "seq2seq", "text"}


def test_what_cannot_fit_is_refused_with_the_smallest_change_that_fits(recipe: Recipe) -> None:
    material, plan = gather(recipe, lambda text: None), choose_plan(recipe)
    sketch = sketched(recipe, material, plan)
    refuse_what_cannot_fit(recipe, material, sketch, Room(2**40, "free memory", False))
    assert sketch.plan == plan
    with pytest.raises(OutOfMemoryError, match=r"takes about .* MiB(.|\n)*RLIMIT_AS leaves 1 MiB") as caught:
        refuse_what_cannot_fit(recipe, material, sketch, Room(MIB, "RLIMIT_AS", True))
    assert caught.value.exit_code == 75
    lora = recipe.model_copy(update={"method": make_recipe({"model": "m", "data": {"train": "f"}}).method})
    between = 68 * MIB  # libraries take 64, and full fine-tuning about 5
    found = list(proposals(recipe, material, plan, between))
    assert all(each.least_mib * MIB <= between for each in found)
    assert {each.set for each in found} <= {("method=half",), ("method=lora",), ("method=qlora",)}
    assert not list(proposals(lora, material, plan, MIB))


def test_lora_that_cannot_fit_is_proposed_as_qlora_with_its_own_keys(recipe: Recipe) -> None:
    material, plan = gather(recipe, lambda text: None), choose_plan(recipe)
    lora = make_recipe({**recipe.model_dump(mode="json"), "method": {"kind": "lora", "rank": 3, "layers": [1]}})
    found = next(proposals(lora, material, plan, 2**40))
    key, qlora = lighter("qlora", lora.method)
    assert found.set == (key,) == ("method.kind=qlora",)
    assert qlora == make_recipe(
        {"model": "m", "data": {"train": "f"}, "method": {"kind": "qlora", "rank": 3, "layers": [1]}}
    ).method  # fmt: skip
    weights = [sketched(each, material, plan).parameter_bytes for each in (
        lora, lora.model_copy(update={"method": qlora}))]  # fmt: skip
    assert weights[1] < weights[0]


def test_what_the_first_step_takes_longer_counts_once() -> None:
    work = Work(steps=10, operations=1000.0, validation=100.0, tokens=800)
    even, slow = (Probed(2.0, first, 0.5, 100, 1.0) for first in (1.9, 6.0))
    assert even.run_seconds(work) == pytest.approx(10 * 0.5 + 1.5 * 8)
    assert slow.run_seconds(work) == pytest.approx(even.run_seconds(work) + 4)
    assert slow.validation_seconds(work) == even.validation_seconds(work) == pytest.approx(1.5 * 8 / 10)


def test_the_probe_is_a_real_process_on_the_fullest_batch(recipe: Recipe) -> None:
    found = estimate(recipe, probe=True)
    probe = found["probe"]
    rows = lengths_of(gather(recipe, lambda text: None).train.rows)
    assert 0 < probe["update"] < probe["seconds"]
    assert probe["first"] > 0
    assert probe["tokens"] <= sum(sorted(rows)[-4:])
    assert probe["peak_mib"] > 100
    assert probe["run_seconds"] > 0


def test_machines_are_values() -> None:
    one = MACHINES["24gb-gpu"]
    assert replace(one, taken_mib=0).free_mib == 24 * 1024
    assert isinstance(one, Machine)
