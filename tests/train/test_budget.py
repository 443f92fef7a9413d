"""The budget: lowered to what fits, obeyed when it stands in the plan, and its estimate close to what a step takes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tutelage.engine.memory import Room
from tutelage.recipe import Recipe, make_recipe
from tutelage.train.budget import fit_budget, most_tokens, need_of, plainly_fits
from tutelage.train.estimate import estimate_line, memory_of, work_of
from tutelage.train.loop import TrainState, training
from tutelage.train.material import Material, gather
from tutelage.train.setup import build_state, choose_plan
from tutelage.train.sketch import Sketch, fullest_rows, sketched


@pytest.fixture
def recipe(model_folder: Callable[[str], Path], chat_file: Callable[[int], Path]) -> Recipe:
    values = {
        "model": str(model_folder("llama")), "data": {"train": str(chat_file(24))}, "method": {"kind": "lora", "rank": 4},
        "optim": {"steps": 2, "batch_size": 24}, "max_tokens": 400, "precision": "fp32", "forgetting": False, "threads": 1,
        "batch": {"tokens": 4096},
    }  # fmt: skip
    return make_recipe(values)


@pytest.fixture
def material(recipe: Recipe) -> Material:
    return gather(recipe, lambda text: None)


@pytest.fixture
def state(recipe: Recipe, material: Material, tmp_path: Path) -> TrainState:
    return build_state(recipe, material, choose_plan(recipe), tmp_path / "checkpoints")


@pytest.fixture
def sketch(recipe: Recipe, material: Material) -> Sketch:
    return sketched(recipe, material, choose_plan(recipe))


def short_of(sketch: Sketch, share: float) -> Room:
    need = need_of(sketch)
    return Room(int(need.of(int(most_tokens(sketch.state) * share)) / 0.85), "RLIMIT_AS", True)


def test_what_fits_is_left_alone(state: TrainState, sketch: Sketch) -> None:
    said: list[str] = []
    fit_budget(state, sketch, said.append, Room(2**40, "free memory", False))
    assert (state.plan.tokens, state.plan.room_mib, said) == (4096, 2**20, [])


def test_what_fits_twice_over_takes_one_walk_and_the_rest_three(sketch: Sketch) -> None:
    fullest = sketch.walk(fullest_rows(sketch.state))
    assert plainly_fits(sketch, 2**40)
    assert len(sketch.walks) == 1
    need = need_of(sketch).of(most_tokens(sketch.state))
    assert not plainly_fits(sketch, 2 * fullest.beyond_weights)
    assert not plainly_fits(sketch, 1.9 * need)  # never where the exact way would see less than half of the room free


def test_what_does_not_fit_is_lowered_aloud_to_what_does(state: TrainState, sketch: Sketch) -> None:
    said: list[str] = []
    fit_budget(state, sketch, said.append, short_of(sketch, 0.5))
    assert state.plan.tokens == pytest.approx(most_tokens(state) / 2, rel=0.01)
    assert len(said) == 1
    assert "instead of 4,096: RLIMIT_AS leaves" in said[0]
    assert state.plan.room_mib is not None
    assert sketch.plan == replace(state.plan, room_mib=None)


def test_a_plan_with_its_room_is_obeyed_unless_a_hard_limit_came_down(state: TrainState, sketch: Sketch) -> None:
    state.plan = replace(state.plan, room_mib=9999)
    said: list[str] = []
    fit_budget(state, sketch, said.append, replace(short_of(sketch, 0.5), hard=False))
    assert (state.plan.tokens, said) == (4096, [])
    fit_budget(state, sketch, said.append, short_of(sketch, 0.5))
    assert state.plan.tokens < 4096
    assert "the last bits of the run may differ" in said[0]


def test_what_a_token_keeps_grows_with_the_model_not_with_the_probe(sketch: Sketch) -> None:
    need = need_of(sketch)
    layers, hidden, wide = 2, 48, 96
    least = 4 * layers * (4 * hidden + 2 * wide)
    assert least < need.per_token < 6 * least
    assert need_of(sketch) == need


def test_moments_reserved_before_the_first_step_change_nothing(state: TrainState) -> None:
    assert state.optimizer.bytes() == 0
    state.optimizer.reserve()
    assert state.optimizer.bytes() == state.trainable.count * 8 + 4 * len(state.trainable.parameters)  # counts of steps
    losses = [event.loss for event in training(state) if event.event == "step"]
    assert len(losses) == 2
    assert losses[1] < losses[0]


def test_the_estimate_is_one_line_with_ranges(sketch: Sketch, material: Material) -> None:
    rows = fullest_rows(sketch.state)
    walk = sketch.walk(rows)
    line = estimate_line(
        sketch.state, work_of(sketch.state, walk, rows), (4.0, 12.0), memory_of(sketch, material, walk)
    )
    assert "\n" not in line
    assert "micro-batches of at most 4,096 tokens" in line
    assert " should take 2 to 6 s and memory peak at " in line
