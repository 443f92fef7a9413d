"""The term that holds a model to its base: its value and gradients against the plain formula, and what the base shares."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tutelage.engine import loss as losses
from tutelage.engine.loss import Anchor, Head, linear_cross_entropy
from tutelage.errors import RecipeError
from tutelage.recipe import make_recipe
from tutelage.tasks.anchored import Anchored
from tutelage.train import checkpoint
from tutelage.train.loop import TrainState, accumulate, restore, score, training
from tutelage.train.material import gather
from tutelage.train.setup import build_state, choose_plan

METHODS: dict[str, Any] = {
    "full": "full", "half": "half", "half in rounds": {"kind": "half", "round": 2}, "lora": {"kind": "lora", "rank": 4},
    "frozen layer": {"kind": "full", "freeze": ["layers.0"]}, "dropout": {"kind": "lora", "rank": 4, "dropout": 0.2},
    "dora": {"kind": "lora", "rank": 4, "dora": True}, "pissa": {"kind": "lora", "rank": 4, "alpha": 4, "init": "pissa"},
    "qlora": {"kind": "qlora", "rank": 4}, "qlora int4": {"kind": "qlora", "rank": 4, "quant_type": "int4"},
}  # fmt: skip


def plainly(hidden: Tensor, head: Head, base: Tensor, of_base: Head, labels: Tensor, weights: Tensor) -> Tensor:
    """Σ w (-log q[y] + 0.7 Σ_v p_v (log p_v - log q_v)), written down as it stands in books."""
    q, p = head.logits(hidden).softmax(-1), of_base.logits(base).softmax(-1)
    cross = -q.gather(1, labels[:, None])[:, 0].log()
    return (weights * (cross + 0.7 * (p * (p.log() - q.log())).sum(1))).sum()


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fast", [True, False])
def test_the_term_is_the_formula_in_any_number_of_chunks(
    fast: bool, dtype: torch.dtype, bias: bool, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    rows, width, words = 23, 12, 57
    make = lambda *shape: torch.randn(*shape, dtype=dtype)  # noqa: E731
    labels, weights = torch.randint(words, (rows,)), torch.rand(rows, dtype=dtype)
    of_base = Head(make(words, width), make(words) if bias else None, 1.3, softcap)
    base = make(rows, width)

    def gradients(compute: Any) -> list[Tensor]:
        torch.manual_seed(1)
        leaves = [make(rows, width), make(words, width), *([make(words)] if bias else [])]
        for leaf in leaves:
            leaf.requires_grad_(True)
        head = Head(leaves[1], leaves[2] if bias else None, 1.3, softcap)
        total = compute(leaves[0], head)
        (total * 0.37).backward()
        return [total.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    expected = gradients(lambda hidden, head: plainly(hidden, head, base, of_base, labels, weights))
    anchor = Anchor(base, of_base, 0.7)
    for values in (2**30, 57 * 5, 57 * 3):
        monkeypatch.setattr(losses, "CHUNK_VALUES", values)
        monkeypatch.setattr(losses, "CACHE_VALUES", min(values, 57 * 2))
        got = gradients(lambda h, head: linear_cross_entropy(h, head, labels, weights, fast=fast, anchor=anchor).total)
        assert len(got) == len(expected) == 3 + bias
        for ours, theirs in zip(got, expected):
            torch.testing.assert_close(ours, theirs, rtol=2e-5 if dtype == torch.float32 else 1e-9, atol=1e-6)
    found = linear_cross_entropy(base, of_base, labels, weights, fast=fast, anchor=anchor)
    assert found.divergence == pytest.approx(0.0, abs=1e-5)
    assert found.value == pytest.approx(linear_cross_entropy(base, of_base, labels, weights, fast=fast).value, rel=1e-6)


def test_words_that_the_tuned_model_excludes_give_no_infinity() -> None:
    head = Head(torch.tensor([[200.0], [-200.0]]))
    hidden, base = torch.ones(1, 1), torch.full((1, 1), 1e-3)
    found = linear_cross_entropy(hidden, head, torch.tensor([0]), torch.ones(1), anchor=Anchor(base, head, 1.0))
    assert found.divergence == pytest.approx(160.0, rel=0.05)


Build = Callable[..., TrainState]


@pytest.fixture
def build(model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path) -> Build:
    """A function from recipe keys to a run in memory."""

    def make(kind: str = "llama", **changes: Any) -> TrainState:
        values = {
            "model": str(model_folder(kind)), "data": {"train": str(chat_file(24)), "validation": 0.4},
            "loss": {"kl": 0.5}, "optim": {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "warmup": 0.0},
            "max_tokens": 400, "precision": "fp32", "threads": 1, "save": {"every": 2, "keep": 9},
        }  # fmt: skip
        recipe = make_recipe(values | changes)
        return build_state(recipe, gather(recipe, lambda text: None), choose_plan(recipe), tmp_path / "checkpoints")

    return make


def anchored_of(state: TrainState) -> Anchored:
    assert state.anchored is not None
    return state.anchored


def own(state: TrainState) -> dict[str, torch.nn.Parameter]:
    """The base's parameters that are not the model's."""
    shared = {id(p) for p in state.backbone.model.parameters()}
    return {n: p for n, p in anchored_of(state).base.model.named_parameters() if id(p) not in shared}


@pytest.mark.parametrize("method", METHODS)
def test_the_base_stays_what_it_was_and_shares_what_never_trains(method: str, build: Build) -> None:
    state = build(method=METHODS[method])
    layouts = state.layouts_of(list(state.train_rows)[:4], state.plan)
    before = anchored_of(state).base.at_sources(layouts[0]).clone()
    steps = [event for event in training(state) if event.event == "step"]
    assert steps[0].divergence == pytest.approx(0.0, abs=1e-5)
    assert steps[-1].divergence is not None
    assert steps[-1].divergence > 1e-3
    assert torch.equal(anchored_of(state).base.at_sources(layouts[0]), before)
    assert not torch.equal(state.backbone.at_sources(layouts[0]), before)
    ever = (
        {n for n, _ in state.backbone.model.named_parameters()} if "rounds" in method else {*state.trainable.parameters}
    )
    assert own(state).keys() == ever
    assert anchored_of(state).bytes == sum(p.numel() * 4 for p in own(state).values())
    assert not any(p.requires_grad or p.grad is not None for p in own(state).values())


@pytest.mark.parametrize(
    "kind, method",
    [
        *itertools.product(["llama", "qwen3", "gemma2", "gpt2"], ["full", "half", "lora"]),
        *itertools.product(["llama"], ["dora", "pissa", "qlora", "qlora int4"]),
    ],
)
def test_a_step_is_the_plain_step(kind: str, method: str, build: Build) -> None:
    state = build(kind, method=METHODS[method], optim={"steps": 3, "batch_size": 4, "learning_rate": 5e-3})
    for _ in training(state):  # away from the base, and from LoRA's zeros
        pass
    rows, anchor = list(state.train_rows)[:6], anchored_of(state)
    plan = state.plan

    def found(layouts: Any, fast: bool) -> tuple[float, float, dict[str, Tensor]]:
        state.anchored = lambda backbone, layout: anchor(backbone, layout, fast=fast)  # type: ignore[assignment]
        state.optimizer.zero_grad()
        loss, _, _, moved = accumulate(state, layouts)
        assert moved is not None
        return loss, moved, {n: p.grad.clone() for n, p in state.trainable.parameters.items() if p.grad is not None}

    alone = [layout for row in rows for layout in state.layouts_of([row], plan)]
    expected = found(alone, False)
    assert expected[1] > 1e-4
    whole = torch.stack([g.norm() for g in expected[2].values()]).norm()
    for layouts in (alone, state.layouts_of(rows, plan)):
        got = found(layouts, True)
        assert got[:2] == pytest.approx(expected[:2], rel=1e-4)
        for name, gradient in expected[2].items():
            error = (got[2][name] - gradient).norm() / torch.maximum(gradient.norm(), 1e-4 * whole)
            assert error < 1e-4, f"{name}: {float(error):.1e}"


def test_a_stronger_term_keeps_the_model_nearer_and_validation_scores_the_task_alone(build: Build) -> None:
    moved = {}
    for strength in (0.01, 1.0, 20.0):
        state = build(method="full", loss={"kl": strength}, optim={"steps": 12, "batch_size": 4, "learning_rate": 3e-3})
        steps = [event for event in training(state) if event.event == "step"]
        moved[strength] = sum(event.divergence or 0.0 for event in steps[6:])
        layouts = state.layouts_of(list(state.validation_rows), state.plan)
        total, weight, *_ = score(state, layouts)
        assert total / weight == pytest.approx(
            sum(state.loss_of(state.backbone, each).value for each in layouts) / weight
        )
    assert moved[0.01] > moved[1.0] > 2 * moved[20.0] > 0


@pytest.mark.parametrize("method", ["half in rounds", "dropout", "pissa", "qlora"])
def test_a_run_that_is_held_goes_on_bit_for_bit(method: str, build: Build) -> None:
    whole = build(method=METHODS[method])
    expected = [(e.step, e.loss, e.divergence) for e in training(whole) if e.event == "step"]
    again = build(method=METHODS[method])
    restore(again, checkpoint.load(whole.store / "step-00000002"))
    assert [(e.step, e.loss, e.divergence) for e in training(again) if e.event == "step"] == expected[2:]
    assert all(torch.equal(m, again.optimizer.masters[n]) for n, m in whole.optimizer.masters.items())


@pytest.mark.parametrize("task", ["tag", "extract", "classify"])
def test_a_task_with_a_head_of_its_own_cannot_be_held(task: str) -> None:
    with pytest.raises(RecipeError, match=r"loss\.kl.*lacks"):
        make_recipe({"model": "m", "task": task, "data": {"train": "x.jsonl"}, "loss": {"kl": 0.1}})
