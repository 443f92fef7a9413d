"""A run that was interrupted, killed or damaged goes on bit for bit: every logged number and the final weights."""

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import tutelage
from tutelage.errors import ChangedRunError, InterruptedRunError, OutputError
from tutelage.runs import history, read_json
from tutelage.train import checkpoint
from tutelage.train.types import Resumed

STEPS = 9  # 20 rows in steps of 4: almost two epochs
METHODS = {
    "full": "full",
    "half": {"kind": "half", "round": 2},
    "lora": {"kind": "lora", "rank": 4},
    "qlora": {"kind": "qlora", "rank": 4},
    "int4": {"kind": "qlora", "rank": 4, "quant_type": "int4"},
    "lora with dropout": {"kind": "lora", "rank": 4, "dropout": 0.1},
    "dora": {"kind": "lora", "rank": 4, "dora": True, "dropout": 0.1},
    "pissa": {"kind": "lora", "rank": 4, "init": "pissa_niter_4", "dora": True},
    "lora+ of a layer's mlp": {
        "kind": "lora",
        "rank": 4,
        "loraplus_ratio": 16,
        "target_modules": "mlp",
        "layers": [1],
    },
}
Numbers = tuple[list[str], dict[str, bytes]]
MakeRecipe = Callable[..., tutelage.Recipe]


WHOLE: dict[str, Numbers] = {}


class Killed(BaseException):
    """Ends a run without its consent, as a kill does."""


@pytest.fixture
def recipe(model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path) -> MakeRecipe:
    """A function from a run's name and recipe keys to its recipe."""

    def make(name: str, **changes: Any) -> tutelage.Recipe:
        values: dict[str, Any] = {
            "model": str(model_folder("llama")), "data": {"train": str(chat_file(24)), "validation": 0.2},
            "method": METHODS["lora"], "optim": {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-3}, "max_tokens": 400,
            "save": {"every": 1}, "validate": {"every": 3}, "precision": "fp32",
            "forgetting": False, "threads": 1, "batch": {"tokens": 128},
            "out": str(tmp_path / name), "seed": 3,
        }  # fmt: skip
        return tutelage.make_recipe(values | changes)

    return make


def outcome(spec: tutelage.Recipe) -> Numbers:
    """Every logged number that the run decides (times left out), bit for bit, and the final weights."""
    run = Path(str(spec.out))
    timed = ("time", "seconds", "tokens_per_second")
    numbers = [
        json.dumps({key: value for key, value in event.items() if key not in timed})
        for event in history(run)
        if event["event"] in ("step", "validated")
    ]
    files = sorted((run / "model").glob("*.safetensors"))
    return numbers, {name: array.tobytes() for file in files for name, array in load_file(file).items()}


def whole(recipe: MakeRecipe, **changes: Any) -> Numbers:
    """The outcome of the run that nothing interrupts, computed once for each set of keys (paths do not count)."""
    key = json.dumps(changes, sort_keys=True)
    if key not in WHOLE:
        spec = recipe(f"whole-{len(WHOLE)}", **changes)
        tutelage.train(spec)
        WHOLE[key] = outcome(spec)
    return WHOLE[key]


def stopped(spec: tutelage.Recipe, step: int) -> None:
    """Train until step `step` is logged, then press Ctrl-C."""

    def press(event: Any) -> None:
        if event.event == "step" and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match=f"saved step {step} of"):
        tutelage.train(spec, watch=press)


def killed(spec: tutelage.Recipe, event_name: str, step: int) -> None:
    """Train until that event, then end at once: nothing is saved or written any more."""

    def kill(event: Any) -> None:
        if (event.event, event.step) == (event_name, step):
            raise Killed

    with pytest.raises(Killed):
        tutelage.train(spec, watch=kill)


def resumed_events(spec: tutelage.Recipe) -> tuple[list[Resumed], dict[str, Any]]:
    events: list[Any] = []
    result = tutelage.train(spec, watch=events.append)
    return [event for event in events if isinstance(event, Resumed)], result


def store(spec: tutelage.Recipe) -> Path:
    return Path(str(spec.out)) / "checkpoints"


def assert_sound(spec: tutelage.Recipe, last: int = STEPS) -> None:
    """Every checkpoint that is left is whole, and the last step is among them."""
    left = checkpoint.steps(store(spec))
    assert last in left
    for path in left.values():
        checkpoint.load(path)


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_at_any_step_and_continued_equals_uninterrupted(method: str, recipe: MakeRecipe) -> None:
    parts = recipe("parts", method=METHODS[method])
    for step in (1, 2, 6, 8):  # in the middle of an epoch, behind a validation, one before the end
        stopped(parts, step)
    resumed, result = resumed_events(parts)
    assert [event.step for event in resumed] == [8]
    assert result["resumed_from"] == 8
    expected, got = whole(recipe, method=METHODS[method]), outcome(parts)
    assert len(expected[0]) == STEPS + 4  # and 4 validations: before the first step, and behind 3, 6 and 9
    assert got[0] == expected[0]
    assert expected[1]
    assert got[1] == expected[1]


def test_a_run_without_an_estimate_in_its_manifest_goes_on_to_the_same_end(recipe: MakeRecipe) -> None:
    parts = recipe("no-estimate", method=METHODS["lora"])
    stopped(parts, 2)
    path = Path(str(parts.out)) / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["estimate"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    resumed, result = resumed_events(parts)
    assert [event.step for event in resumed] == [2]
    assert result["estimated_peak_mib"] is None
    assert outcome(parts) == whole(recipe, method=METHODS["lora"])


def test_a_run_begun_before_a_recipe_key_existed_goes_on(recipe: MakeRecipe) -> None:
    parts = recipe("older", method=METHODS["lora"])
    stopped(parts, 2)
    path = Path(str(parts.out)) / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["identity"]["recipe"]["optim"]["kind"], manifest["identity"]["recipe"]["method"]["loraplus_ratio"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    tutelage.train(parts)
    assert outcome(parts) == whole(recipe, method=METHODS["lora"])
    manifest["identity"]["recipe"]["a_key_of_the_past"] = 1
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ChangedRunError, match="a_key_of_the_past"):
        tutelage.train(parts)


@pytest.mark.parametrize("extra", [{"neftune_alpha": 5.0}, {"kind": "adamw_8bit"}], ids=["neftune", "8 bit"])
@pytest.mark.parametrize("method", ["full", "lora", "half"])
def test_with_another_optimizer_or_noise_it_goes_on_bit_for_bit(
    method: str, extra: dict[str, Any], recipe: MakeRecipe
) -> None:
    optim = {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-3, **extra}
    parts = recipe("parts", method=METHODS[method], optim=optim)
    stopped(parts, 2)
    killed(parts, "step", 7)
    tutelage.train(parts)
    assert outcome(parts) == whole(recipe, method=METHODS[method], optim=optim)
    assert outcome(parts)[0] != whole(recipe, method=METHODS[method])[0]


def flip(path: Path) -> None:
    data = bytearray((path / checkpoint.TENSORS).read_bytes())
    data[len(data) // 2] ^= 1
    (path / checkpoint.TENSORS).write_bytes(bytes(data))


def truncate(path: Path) -> None:
    data = (path / checkpoint.STATE).read_bytes()
    (path / checkpoint.STATE).write_bytes(data[: len(data) // 2])


def lose_manifest(path: Path) -> None:
    (path / checkpoint.MANIFEST).unlink()


@pytest.mark.parametrize("damage", [flip, truncate, lose_manifest])
def test_a_damaged_checkpoint_is_passed_over_aloud_and_the_one_before_gives_the_same_run(
    damage: Callable[[Path], None], recipe: MakeRecipe
) -> None:
    hurt = recipe("hurt")
    stopped(hurt, 5)
    damage(store(hurt) / "step-00000005")
    (event,), _ = resumed_events(hurt)
    assert event.step == 4
    assert len(event.skipped) == 1
    assert "step-00000005 was passed over" in event.skipped[0]
    assert outcome(hurt) == whole(recipe)
    assert_sound(hurt)


def test_the_last_step_is_saved_again_if_its_checkpoint_was_damaged(recipe: MakeRecipe) -> None:
    keys: dict[str, Any] = {
        "data": {"train": recipe("x").data.train[0].path}
    }  # no validation, which would save the best
    hurt = recipe("hurt", **keys)
    killed(hurt, "finished", STEPS)
    flip(store(hurt) / f"step-{STEPS:08d}")
    (event,), _ = resumed_events(hurt)
    assert event.step == STEPS - 1
    assert outcome(hurt) == whole(recipe, **keys)
    assert_sound(hurt)


def test_good_checkpoints_are_kept_and_damaged_ones_are_not_counted(recipe: MakeRecipe) -> None:
    spec = recipe("hurt", save={"every": 1, "keep": 3}, data={**recipe("x").data.model_dump(), "validation": None})
    stopped(spec, 6)
    for step in (5, 6):
        flip(store(spec) / f"step-{step:08d}")
    killed(spec, "saved", 5)
    good = [step for step, path in checkpoint.steps(store(spec)).items() if readable(path)]
    assert good == [4, 5]


def readable(path: Path) -> bool:
    try:
        checkpoint.load(path)
    except ValueError:
        return False
    return True


def test_a_run_whose_checkpoints_are_all_damaged_starts_again_aloud(recipe: MakeRecipe) -> None:
    hurt = recipe("hurt")
    stopped(hurt, 4)
    for path in checkpoint.steps(store(hurt)).values():
        flip(path)
    (event,), _ = resumed_events(hurt)
    assert event.step == 0
    assert len(event.skipped) >= 2
    assert outcome(hurt) == whole(recipe)
    assert_sound(hurt)


def test_killed_before_the_first_checkpoint_it_starts_again_and_logs_each_step_once(recipe: MakeRecipe) -> None:
    hurt = recipe("hurt", save={"every": 100})
    killed(hurt, "step", 2)  # before the first validation with a best model, which is saved
    assert not checkpoint.steps(store(hurt))
    tutelage.train(hurt)
    assert outcome(hurt) == whole(recipe)


@pytest.mark.parametrize("event, step", [("step", 6), ("validated", 6), ("saved", 6), ("finished", STEPS)])
def test_killed_behind_any_event_it_goes_on_to_the_same_end(event: str, step: int, recipe: MakeRecipe) -> None:
    hurt = recipe("hurt", save={"every": 2})
    killed(hurt, event, step)
    tutelage.train(hurt)
    assert outcome(hurt) == whole(recipe)
    assert_sound(hurt)


def test_stopped_early_and_killed_before_the_end_it_stops_again_at_once(recipe: MakeRecipe) -> None:
    keys: dict[str, Any] = {
        "optim": {"steps": 40, "batch_size": 4, "learning_rate": 0.3}, "validate": {"every": 1, "patience": 2},
    }  # fmt: skip
    calm, hurt = recipe("calm", **keys), recipe("hurt", **keys)
    result = tutelage.train(calm)
    assert result["reason"] == "early_stopping"
    killed(hurt, "finished", result["steps"])
    again = tutelage.train(hurt)
    assert (again["reason"], again["steps"]) == ("early_stopping", result["steps"])
    assert outcome(hurt) == outcome(calm)


EARLY_BEST: dict[str, Any] = {
    "optim": {"steps": 8, "batch_size": 4, "learning_rate": 0.03, "schedule": "constant", "warmup": 0.0},
    "validate": {"every": 1}, "save": {"every": 1},
}  # fmt: skip


def test_the_best_checkpoint_survives_rotation_and_an_interruption(recipe: MakeRecipe) -> None:
    calm, parts = recipe("calm", **EARLY_BEST), recipe("parts", **EARLY_BEST)
    tutelage.train(calm)
    manifest = read_json(Path(str(calm.out)) / "manifest.json")
    assert manifest["model_step"] == manifest["best_step"] < 6  # or rotation would not be tested
    stopped(parts, 7)
    tutelage.train(parts)
    assert outcome(parts) == outcome(calm)
    assert set(checkpoint.steps(store(parts))) == {manifest["best_step"], 7, 8}
    assert_sound(parts, last=8)


def test_a_lost_best_checkpoint_is_said_and_the_last_model_is_written(recipe: MakeRecipe) -> None:
    spec = recipe("hurt", **EARLY_BEST)
    stopped(spec, 7)
    best = checkpoint.load(store(spec) / "step-00000007").state["best_step"]
    assert best < 6
    flip(store(spec) / f"step-{best:08d}")
    said: list[str] = []
    result = tutelage.train(spec, say=said.append)
    assert [line for line in said if line.startswith("warning:") and f"step {best}" in line and "step 8" in line]
    manifest = read_json(Path(result["run"]) / "manifest.json")
    assert (manifest["best_step"], manifest["model_step"]) == (best, 8)
    assert result["validation"]["after"]["step"] == 8
    ours = {
        f"master.{n}": a for n, a in checkpoint.load(store(spec) / "step-00000008").tensors.items() if "master" in n
    }
    assert ours
    written = outcome(spec)[1]
    assert sorted(a.numpy().tobytes() for a in ours.values()) == sorted(written.values())


def test_a_finished_run_is_left_alone(recipe: MakeRecipe) -> None:
    spec = recipe("whole")
    first = tutelage.train(spec)
    shutil.rmtree(store(spec))  # not even looked at
    events: list[Any] = []
    said: list[str] = []
    assert tutelage.train(spec, watch=events.append, say=said.append) == first
    assert not events
    assert "finished: nothing to do" in said[-1]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 60 KB: room for the log, but not for weights."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_costs_checkpoints_and_not_the_run(recipe: MakeRecipe) -> None:
    hurt = recipe("hurt", method="full")
    events: list[Any] = []
    with ExitStack() as disk:

        def watch(event: Any) -> None:
            events.append(event)
            if event.event == "step" and event.step == 4:
                disk.enter_context(full_disk())
            if event.event == "step" and event.step == 8:
                disk.close()

        tutelage.train(hurt, watch=watch)
    failed = {event.step for event in events if event.event == "saved" and event.error}
    assert failed == {4, 5, 6, 7}
    assert outcome(hurt) == whole(recipe, method="full")
    assert_sound(hurt)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_full_disk_at_the_end_is_a_sentence_and_the_next_start_finishes(method: str, recipe: MakeRecipe) -> None:
    spec: Any = {"kind": "lora", "rank": 16} if method == "lora" else "full"  # both are more than there is room for
    hurt = recipe("hurt", method=spec)
    with ExitStack() as disk, pytest.raises(OutputError, match="the model could not be written"):
        tutelage.train(hurt, watch=lambda event: event.event == "finished" and disk.enter_context(full_disk()))
    assert not (Path(str(hurt.out)) / "model").exists()
    tutelage.train(hurt)
    assert outcome(hurt) == whole(recipe, method=spec)
