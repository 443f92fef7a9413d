"""The self-test holds on every family, and notices each fast path that is broken on purpose."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tutelage.encode.types import Encoded, Layout, Segment
from tutelage.engine import attention, decoder, lora_linear, loss, packed, plan
from tutelage.engine.stack import Keep
from tutelage.models.tiny import KINDS
from tutelage.recipe import FullSpec, LoraSpec
from tutelage.tasks.batching import packed as layouts
from tutelage.train import optim
from tutelage.train.loop import TrainState
from tutelage.train.selftest import checks, execution, subject
from tutelage.train.selftest.checks import Outcome, examine
from tutelage.train.selftest.subject import Subject, notes_of, tiny_subject

LORA, FULL = LoraSpec(rank=4, alpha=8.0, dropout=0.1), FullSpec()
PACKING = {
    "our attention = plain",
    "packed = unpacked",
    "shared prefix = not shared",
    "packed micro-batches = one pack",
}
ALWAYS = {
    "accumulation = one batch", "loss without logits = plain", "recompute layers = keep all", "as trained = one batch",
    "resume = no interruption",
}  # fmt: skip
LAYERS = {"our layers = the model's own", "recompute gated units = keep all"}


def outcomes(tested: Subject, spec: Any, folder: Path) -> dict[str, Outcome]:
    return {outcome.check: outcome for outcome in examine(tested, spec, folder)}


def failing(found: dict[str, Outcome]) -> set[str]:
    return {name for name, outcome in found.items() if not outcome.passed}


@pytest.mark.parametrize("spec", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_execution_agrees_on_every_family(kind: str, spec: Any, tmp_path: Path) -> None:
    found = outcomes(tiny_subject(kind), spec, tmp_path)
    assert failing(found) == set(), found
    expected = ALWAYS | PACKING | ({"LoRA product = plain composition"} if spec is LORA else set())
    assert set(found) - LAYERS == expected
    assert set(found) & LAYERS == (LAYERS if kind in ("llama", "mistral", "qwen2", "qwen3") else set())
    assert notes_of(tiny_subject(kind)) == ()


VARIANTS = {"dora": LoraSpec(rank=4, dora=True), "pissa": LoraSpec(rank=4, init="pissa"),
            "part": LoraSpec(rank=4, target_modules="mlp", layers=[1], loraplus_ratio=4)}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_execution_agrees_on_every_variant(name: str, kind: str, tmp_path: Path) -> None:
    found = outcomes(tiny_subject(kind), VARIANTS[name], tmp_path)
    assert failing(found) == set(), found
    ours = kind == "llama" and name != "dora"  # whose layers run through the model's own forward
    assert set(found) == ALWAYS | PACKING | {"LoRA product = plain composition"} | (LAYERS if ours else set())


def bloom() -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING["bloom"](vocab_size=512, hidden_size=48, n_layer=2, n_head=4, initializer_range=0.15)
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_model_that_cannot_pack_is_tested_row_by_row_and_said(tmp_path: Path) -> None:
    alone = replace(tiny_subject("llama"), name="bloom", make=bloom)
    found = outcomes(alone, LORA, tmp_path)
    assert failing(found) == set(), found
    assert set(found) == ALWAYS | {"LoRA product = plain composition"}
    assert notes_of(alone) == ("bloom cannot keep packed rows apart: one row per micro-batch",)


def mean_of_means(state: TrainState, packs: Sequence[Layout]) -> tuple[float, int, int]:
    value = 0.0
    for pack in packs:
        result = state.loss_of(state.backbone, pack)
        (result.total / (pack.weights.sum() * len(packs))).backward()
        value += result.value / float(pack.weights.sum()) / len(packs)
    return value, 0, 0


def test_a_loss_averaged_per_micro_batch_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(execution, "accumulate", mean_of_means)
    found = outcomes(tiny_subject("llama"), LORA, tmp_path)
    assert {"accumulation = one batch", "packed micro-batches = one pack"} <= failing(found)
    assert found["accumulation = one batch"].difference > 1e-2


def leaking(rows: Sequence[Encoded], plan: Any) -> list[Layout]:
    """The loop's micro-batches, each as if it were one document."""
    return [replace(pack, segments=(Segment(0, len(pack.ids)),)) for pack in layouts(rows, plan)]


def test_packing_that_leaks_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(execution, "layouts", leaking)
    found = outcomes(tiny_subject("qwen3"), FULL, tmp_path)
    assert {"packed = unpacked", "packed micro-batches = one pack", "as trained = one batch"} <= failing(found)
    assert found["packed = unpacked"].difference > 1e-3


def test_a_window_that_is_ignored_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocks, hide, make = packed.blocks, plan.Block.hide, checks.make_state

    def broken_later(*arguments: Any) -> TrainState:  # at load it would be noticed, and the model run the plain way
        state = make(*arguments)
        monkeypatch.setattr(packed, "blocks", lambda plan, segment, causal, window: blocks(plan, segment, causal, None))
        monkeypatch.setattr(plan.Block, "hide", lambda block, scores, causal, window: hide(block, scores, causal, None))
        return state

    monkeypatch.setattr(checks, "make_state", broken_later)
    found = outcomes(tiny_subject("mistral"), LORA, tmp_path)
    assert {"our attention = plain", "as trained = one batch"} <= failing(found)


def orphaned(rows: Sequence[Encoded], execution_plan: Any) -> list[Layout]:
    """The loop's micro-batches, without the word that a row comes behind a shared prefix."""
    packs = layouts(rows, execution_plan)
    return [replace(pack, segments=tuple(replace(s, parent=None) for s in pack.segments)) for pack in packs]


def test_a_prefix_that_later_rows_do_not_see_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(execution, "layouts", orphaned)
    found = outcomes(tiny_subject("gpt2"), LORA, tmp_path)
    assert failing(found) == {"shared prefix = not shared", "as trained = one batch"}


def scaled(right: Callable[..., Any], place: int, factor: float) -> Any:
    """`right`, a backward pass, with the gradient at `place` wrong by `factor`."""

    def wrong(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        result = list(right(ctx, *gradients))
        result[place] = None if result[place] is None else result[place] * factor
        return tuple(result)

    return staticmethod(wrong)


@pytest.mark.parametrize(
    "function, place, check, spec",
    [
        (loss._ChunkedLoss, 0, "loss without logits = plain", LORA),
        (loss._ChunkedLoss, 1, "loss without logits = plain", FULL),
        (lora_linear._LoraProduct, 1, "LoRA product = plain composition", LORA),
        (attention._Packed, 2, "our attention = plain", FULL),
        (decoder._Decode, 0, "our layers = the model's own", LORA),
    ],
)
def test_a_gradient_that_is_off_by_a_thousandth_is_noticed(
    function: Any, place: int, check: str, spec: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(function, "backward", scaled(function.backward, place, 1.001))
    kind = "llama" if function is decoder._Decode else "gpt2"
    found = outcomes(tiny_subject(kind), spec, tmp_path)
    assert {check, "as trained = one batch"} <= failing(found)
    assert found[check].tensor != "loss"


def test_a_switch_that_recomputes_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = decoder.DecoderStack.run
    monkeypatch.setattr(
        decoder.DecoderStack, "run", lambda stack, layout, keep, *more: right(stack, layout, Keep.ALL, *more)
    )
    found = outcomes(tiny_subject("llama"), LORA, tmp_path)
    assert failing(found) == {"recompute gated units = keep all", "recompute layers = keep all"}
    assert found["recompute layers = keep all"].detail.startswith("nothing was recomputed")


def test_lost_moments_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = optim.Optimizer.load
    monkeypatch.setattr(optim.Optimizer, "load", lambda self, tensors: right(self, tensors, moments=False))
    assert failing(outcomes(tiny_subject("llama"), LORA, tmp_path)) == {"resume = no interruption"}


def test_gradients_that_are_zero_are_no_proof(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subject, "ADAPTER_STD", 0.0)  # with B = 0 nothing reaches A
    found = outcomes(tiny_subject("llama"), LORA, tmp_path)
    assert "accumulation = one batch" in failing(found)
    assert found["accumulation = one batch"].detail.startswith("nothing was compared: the gradient of ")
