"""The loop: steps mean what the recipe says, however they are executed, and nothing ends a run that need not."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.engine.loss import LossSum
from tutelage.engine.rounding import rounded
from tutelage.errors import CheckFailedError, OutOfMemoryError
from tutelage.recipe import OptimSpec, Recipe, make_recipe
from tutelage.tasks import chat
from tutelage.train.loop import TrainState, sample, training
from tutelage.train.material import gather
from tutelage.train.optim import Optimizer, learning_rate
from tutelage.train.setup import build_state, choose_plan

Build = Callable[..., TrainState]


@pytest.fixture
def build(model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path) -> Build:
    """A function from recipe keys to a run in memory."""

    def make(**changes: Any) -> TrainState:
        values = {
            "model": str(model_folder("llama")), "data": {"train": str(chat_file(24)), "validation": 0.4},
            "method": {"kind": "lora", "rank": 4}, "optim": {"steps": 6, "batch_size": 5, "learning_rate": 1e-3},
            "max_tokens": 400, "precision": "fp32", "forgetting": False, "threads": 1,
        }  # fmt: skip
        recipe: Recipe = make_recipe(values | changes)
        return build_state(recipe, gather(recipe, lambda text: None), choose_plan(recipe), tmp_path / "checkpoints")

    return make


def steps(state: TrainState) -> list[Any]:
    return [event for event in training(state) if event.event == "step"]


def masters(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.optimizer.masters.items()}


@pytest.mark.parametrize("method", ["full", {"kind": "lora", "rank": 4}], ids=["full", "lora"])
def test_the_budget_changes_nothing_but_execution(method: Any, build: Build) -> None:
    one, many = build(method=method), build(method=method, batch={"tokens": 40, "share_prefix": False})
    assert one.plan.tokens == 2048
    expected, got = steps(one), steps(many)
    for a, b in zip(expected, got):
        assert b.loss == pytest.approx(a.loss, rel=1e-5)
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-4)
        assert (b.target_tokens, b.tokens) == (a.target_tokens, a.tokens)
    for name, tensor in masters(one).items():
        torch.testing.assert_close(masters(many)[name], tensor, rtol=1e-3, atol=1e-5)


def test_batch_size_is_examples_per_step_and_each_row_comes_once_an_epoch(build: Build) -> None:
    state = build(optim={"epochs": 2, "batch_size": 5})
    batches = state.batches
    assert state.total_steps == 2 * math.ceil(len(state.train_rows) / 5)
    for epoch in range(2):
        rows = [int(i) for s in range(batches.per_epoch) for i in batches.of_step(epoch * batches.per_epoch + s)]
        assert sorted(rows) == list(range(len(state.train_rows)))
    assert [int(i) for i in batches.of_step(0)] != [int(i) for i in batches.of_step(batches.per_epoch)]


def test_out_of_memory_halves_the_budget_and_does_the_same_step_again(build: Build) -> None:
    unlimited = steps(build())
    state = build()

    def limited(backbone: Any, layout: Any) -> LossSum:
        result = chat.loss(backbone, layout)
        if len(layout.ids) > 150:  # fails after the forward pass, as real memory does
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 12 bytes"
            )
        return result

    state.loss_of = limited
    events = list(training(state))
    halved = [event.tokens for event in events if event.event == "budget_halved"]
    assert halved
    assert all(b <= a // 2 for a, b in zip([1024, *halved], halved))
    assert state.plan.tokens == halved[-1]
    for a, b in zip(unlimited, [event for event in events if event.event == "step"]):
        assert b.loss == pytest.approx(a.loss, rel=1e-5)


def test_what_does_not_fit_one_row_at_a_time_is_said(build: Build) -> None:
    state = build()

    def never(backbone: Any, layout: Any) -> LossSum:
        raise MemoryError

    state.loss_of = never
    state.validation_rows = ()
    with pytest.raises(OutOfMemoryError, match="not even one example") as caught:
        list(training(state))
    assert caught.value.exit_code == 75


def test_other_errors_are_not_taken_for_missing_memory(build: Build) -> None:
    state = build()

    def wrong(backbone: Any, layout: Any) -> LossSum:
        raise RuntimeError("shapes do not match")

    state.loss_of = wrong
    with pytest.raises(RuntimeError, match="shapes"):
        list(training(state))


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_non_finite_step_stops_before_the_weights_change(how: str, build: Build) -> None:
    state = build()
    before = masters(state)

    def broken(backbone: Any, layout: Any) -> LossSum:
        result = chat.loss(backbone, layout)
        bad = float("nan") if how == "loss" else result.value
        return LossSum(result.total * float("inf"), bad, result.correct)

    state.loss_of = broken
    state.validation_rows = ()
    with pytest.raises(CheckFailedError, match="the weights are unchanged"):
        list(training(state))
    assert all(torch.equal(tensor, before[name]) for name, tensor in masters(state).items())


def test_early_stopping_and_the_best_checkpoint(build: Build) -> None:
    state = build(
        optim={"steps": 40, "batch_size": 5, "learning_rate": 3.0, "schedule": "constant"},
        validate={"every": 1, "patience": 3},
    )
    events = list(training(state))
    assert events[-1].event == "finished"
    assert events[-1].reason == "early_stopping"
    scored = [event for event in events if event.event == "validated"]
    after = {event.step: event.loss for event in scored if event.step}
    assert state.best_step == min(after, key=lambda step: after[step])
    assert events[-1].step == state.best_step + 3
    assert (state.store / f"step-{state.best_step:08d}").is_dir()


def test_validation_scores_a_bounded_sample_and_always_the_same(build: Build) -> None:
    state = build(validate={"rows": 2, "every": 3})
    assert len(state.validation_rows) > 2
    scored = [event for event in training(state) if event.event == "validated"]
    assert [event.step for event in scored] == [0, 3, 6]
    assert {event.rows for event in scored} == {2}
    assert len({event.target_tokens for event in scored}) == 1
    assert sample(list(range(10)), 4) == [0, 2, 5, 7]  # type: ignore[arg-type]


def test_schedules() -> None:
    def rates(schedule: str) -> list[float]:
        spec = OptimSpec(learning_rate=1.0, schedule=schedule, warmup=0.2)  # type: ignore[arg-type]
        return [round(learning_rate(spec, step, 10), 4) for step in range(10)]

    assert rates("constant") == [0.5] + [1.0] * 9
    assert rates("linear") == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert rates("cosine")[2:4] == [1.0, round(0.5 * (1 + math.cos(math.pi / 8)), 4)]


def test_only_matrices_decay() -> None:
    parameters = {"matrix": torch.nn.Parameter(torch.ones(2, 2)), "norm": torch.nn.Parameter(torch.ones(2))}
    optimizer = Optimizer(parameters, OptimSpec(learning_rate=0.1, weight_decay=0.5))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.1, 0.0)
    assert torch.allclose(parameters["matrix"], torch.full((2, 2), 0.95))
    assert torch.equal(parameters["norm"], torch.ones(2))


def test_updates_below_bf16_resolution_are_not_lost() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = Optimizer({"w": parameter}, OptimSpec(learning_rate=1e-3))
    for _ in range(10):  # bf16 near 1 moves in steps of 2^-8 = 0.0039: one update of 0.001 alone would vanish
        (parameter * 2).sum().backward()
        optimizer.step(1e-3, optimizer.gradient_norm())
    assert optimizer.masters["w"].dtype == torch.float32
    assert torch.allclose(optimizer.masters["w"], torch.full((4,), 0.99), atol=1e-4)
    assert torch.equal(parameter, rounded(optimizer.masters["w"], "w"))
    assert float(parameter.detach().max()) < 0.995  # each is 0.9883 or 0.9922, whichever its threshold says


def test_gradients_of_bf16_parameters_add_up_in_fp32() -> None:
    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = Optimizer({"w": parameter}, OptimSpec())
    for scale in (256.0, 1.0, 1.0):  # in bf16, 256 + 1 + 1 is 256
        (parameter * scale).sum().backward()
    assert optimizer.masters["w"].grad is not None
    assert float(optimizer.masters["w"].grad) == 258.0


def test_bf16_trains_and_keeps_masters(build: Build) -> None:
    state = build(precision="bf16", method="full", optim={"steps": 4, "batch_size": 5, "learning_rate": 1e-3})
    assert state.plan.precision == "bf16"
    assert {m.dtype for m in state.optimizer.masters.values()} == {torch.float32}
    losses = [event.loss for event in steps(state)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind, size, within", [("adamw", 2, 1e-6), ("adamw_8bit", 4096, 0.02)])
def test_clipping_scales_the_whole_gradient(kind: str, size: int, within: float) -> None:
    """As torch's: what enters the moments is the gradient over its norm, and a small one as it is."""
    parameter = torch.nn.Parameter(torch.zeros(size))
    other = torch.nn.Parameter(torch.zeros(size))
    optimizer = Optimizer({"w": parameter}, OptimSpec(kind=kind, max_grad_norm=1.0))
    adam = torch.optim.AdamW([other], lr=0.1, weight_decay=0.0)
    for values in ((3.0, 4.0), (0.03, -0.04), (-30.0, 0.4)):
        parameter.grad = torch.tensor(values).repeat_interleave(size // 2)
        other.grad = parameter.grad.clone()
        torch.nn.utils.clip_grad_norm_([other], 1.0)
        adam.step()
        optimizer.step(0.1, optimizer.gradient_norm())
    torch.testing.assert_close(parameter, other, rtol=within, atol=within)


def test_a_model_that_cannot_pack_runs_row_by_row_to_the_same_losses(build: Build) -> None:
    packed, alone = build(), build()
    alone.plan = replace(alone.plan, packed=False, share_prefix=False)
    for a, b in zip(steps(packed), steps(alone)):
        assert b.loss == pytest.approx(a.loss, rel=1e-5)
