"""Execution never changes the mathematics: every fast path against its plain reference, loss and every gradient."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tutelage.data.types import At
from tutelage.encode.layout import make_layout
from tutelage.encode.types import Encoded, Segment
from tutelage.engine import attention
from tutelage.engine import plan as plans
from tutelage.engine.backbone import make_backbone
from tutelage.engine.dora_linear import DoraLinear
from tutelage.engine.loss import Head, linear_cross_entropy
from tutelage.engine.stack import Keep
from tutelage.methods import METHODS
from tutelage.methods.lora import lora_layers
from tutelage.recipe import FullSpec, HalfSpec, LoraSpec
from tutelage.tasks import chat

KINDS = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt2"]
METHOD: dict[str, Any] = {
    "full": FullSpec(), "half": HalfSpec(), "lora": LoraSpec(rank=4, alpha=8), "dora": LoraSpec(rank=4, alpha=8, dora=True),
    "pissa": LoraSpec(rank=4, alpha=8, init="pissa"), "mlp": LoraSpec(rank=4, target_modules="mlp", layers=[1]),
}  # fmt: skip
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def rows(seed: int = 0, lengths: tuple[int, ...] = (31, 14, 47, 22), prefix: int = 11) -> list[Encoded]:
    """Rows of unequal lengths that share a prefix; some tokens trained, with unequal weights."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(3, 500, prefix)
    made = []
    for length in lengths:
        ids = np.concatenate((shared, rng.integers(3, 500, length - prefix))).astype(np.int32)
        weights = np.where(rng.random(length) < 0.6, rng.choice([1.0, 0.5, 2.0], length), 0.0).astype(np.float32)
        weights[:prefix] = 0.0
        weights[-1] = 1.0
        made.append(Encoded(ids, weights, np.zeros(length, np.uint8), At("test", 1)))
    return made


def load(folder: Path, dtype: torch.dtype, method: str) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    backbone = make_backbone(model)
    spec = METHOD[method]
    trainable = METHODS.get(spec.kind).prepare(model, spec, seed=0)
    backbone = backbone.settled()
    torch.manual_seed(1)
    for _, layer in lora_layers(model):
        if isinstance(layer, DoraLinear):
            layer.m.data = layer.m.data.to(dtype) * (0.7 + 0.6 * torch.rand(layer.m.shape, dtype=dtype))
        layer.a.data = layer.a.data.to(dtype)
        layer.b.data = torch.randn_like(layer.b, dtype=dtype) * 0.3
    return backbone, trainable


def gradients(
    backbone: Any, trainable: Any, layouts: list[Any], *, fast: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss over all layouts, divided once by the whole weight, and the gradients of everything that trains."""
    for parameter in trainable.parameters.values():
        parameter.grad = None
    weight = sum(float(layout.weights.double().sum()) for layout in layouts)
    value = 0.0
    for layout in layouts:
        result = chat.loss(backbone, layout, fast=fast)
        (result.total / weight).backward()
        value += result.value
    frozen = [p for p in backbone.model.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen), "a frozen parameter has a gradient"
    return value / weight, {name: p.grad.clone() for name, p in trainable.parameters.items()}


def assert_equal(ours: Any, theirs: Any, tolerance: float) -> None:
    """Loss and each gradient by relative L2, with a floor at 1e-8 of the whole gradient's norm; none may be zero."""
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance)
    whole = torch.stack([g.double().norm() for g in theirs[1].values()]).norm()
    assert whole > 0
    for name, expected in theirs[1].items():
        norm = expected.double().norm()
        assert norm > 0, f"the gradient of {name} is zero: nothing was compared"
        error = (ours[1][name].double() - expected.double()).norm() / torch.maximum(norm, 1e-8 * whole)
        assert error <= tolerance, f"{name}: {float(error):.2e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("method", METHOD)
@pytest.mark.parametrize("kind", KINDS)
def test_every_execution_gives_the_plain_loss_and_gradients(
    kind: str, method: str, dtype: torch.dtype, model_folder: Callable[[str], Path]
) -> None:
    backbone, trainable = load(model_folder(kind), dtype, method)
    assert backbone.packs
    assert not backbone.plain_logits
    examples = rows()
    alone = [make_layout([row], share_prefix=False) for row in examples]
    plain = gradients(backbone, trainable, alone, fast=False)
    executions = {
        "alone, fast": alone,
        "packed": [make_layout(examples, share_prefix=False)],
        "packed, shared prefix": [make_layout(examples, share_prefix=True)],
        "packed, filled": [make_layout(examples, share_prefix=True, fill=True)],
        "two micro-batches": [
            make_layout(examples[:1], share_prefix=False),
            make_layout(examples[1:], share_prefix=False),
        ],
        "two with a shared prefix": [
            make_layout(examples[:2], share_prefix=True),
            make_layout(examples[2:], share_prefix=True),
        ],
    }
    assert executions["packed, shared prefix"][0].segments[1].parent == 0
    alone_fast = gradients(backbone, trainable, alone, fast=True)
    for name, layouts in executions.items():
        # transformers' RMSNorm rounds to fp32 even in fp64 models, the engine's own does not: fp64 executions are held to
        # the fast one of rows alone, and that one to the plain one as far as fp32 roundings allow. Gemma 2 runs its own
        # forward, and sums the gradients of its norms over other tokens first when rows are packed; so does any model with
        # DoRA. PiSSA's large A and B carry roundings further. GPT-2 is fp64 throughout.
        rounded = dtype == torch.float64 and kind != "gpt2"
        try:
            ours = gradients(backbone, trainable, layouts, fast=True)
            rounding = 1e-5 if method == "pissa" else 1e-6
            assert_equal(ours, plain, rounding if rounded else TOLERANCE[dtype])
            own = kind == "gemma2" or method == "dora"
            assert_equal(ours, alone_fast, rounding if rounded and own else TOLERANCE[dtype])
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.parametrize("method", ["full", "half", "lora"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_what_a_layer_keeps_for_the_backward_changes_nothing(
    kind: str, method: str, model_folder: Callable[[str], Path]
) -> None:
    backbone, trainable = load(model_folder(kind), torch.float32, method)
    assert backbone.stack is not None, "these are the kinds that the hand-written layers are for"
    layouts = [make_layout(rows(), share_prefix=True)]
    plain = gradients(backbone, trainable, layouts, fast=False)
    results = [gradients(replace(backbone, keep=keep), trainable, layouts, fast=True) for keep in Keep]
    assert_equal(results[0], plain, 1e-5)
    for result in results[1:]:
        assert result[0] == results[0][0]
        assert all(torch.equal(result[1][name], results[0][1][name]) for name in trainable.parameters)


def test_the_written_layers_compute_no_gradient_of_a_frozen_weight(model_folder: Callable[[str], Path]) -> None:
    work = {}
    for method in ("full", "half"):
        backbone, _ = load(model_folder("llama"), torch.float32, method)
        assert backbone.stack is not None
        layout = make_layout(rows(), share_prefix=True)
        result = chat.loss(backbone, layout)
        with torch.autograd.profiler.profile(with_flops=True) as profiled:
            result.total.backward()
        work[method] = sum(event.flops for event in profiled.function_events)
    # the last layer's second half runs on no other rows, filled up to a multiple of 32
    few = min(-(-len(layout.sources.unique()) // 32) * 32, len(layout.ids))
    late = ("layers.1.self_attn.o", "layers.1.mlp")
    frozen = [(n, p) for n, p in backbone.model.named_parameters() if p.dim() > 1 and not p.requires_grad]
    spared = sum(2 * p.numel() * (few if any(part in n for part in late) else len(layout.ids)) for n, p in frozen)
    assert len(frozen) == 7  # of 14 matrices
    assert work["full"] - work["half"] == pytest.approx(spared, rel=5e-3)  # and products with norm weights


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_loss_is_what_transformers_computes(kind: str, model_folder: Callable[[str], Path]) -> None:
    """Anchors the reference itself: a row alone, through the untouched model and torch's cross_entropy."""
    folder = model_folder(kind)
    untouched = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    backbone, _ = load(folder, torch.float64, "full")
    for row in rows():
        labels = torch.from_numpy(row.ids.astype(np.int64))
        weights = torch.from_numpy(row.weights.astype(np.float64))
        with torch.no_grad():
            logits = untouched(input_ids=labels[None]).logits[0].double()
            ours = chat.loss(backbone, make_layout([row], share_prefix=False), fast=False).value
        losses = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="none")
        assert ours == pytest.approx(
            float((losses * weights[1:]).sum()), rel=1e-7 if kind == "gemma2" else 1e-9
        )  # eager softmax


def test_a_packed_row_does_not_see_its_neighbour(model_folder: Callable[[str], Path]) -> None:
    backbone, _ = load(model_folder("llama"), torch.float32, "full")
    one, two = rows(lengths=(31, 22), prefix=0)
    changed = Encoded(one.ids[::-1].copy(), one.weights, one.roles, one.at)
    with torch.no_grad():
        before = backbone.hidden(make_layout([one, two], share_prefix=False))[31:]
        after = backbone.hidden(make_layout([changed, two], share_prefix=False))[31:]
    assert torch.equal(before, after)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("block", "short"), [(7, 0), (256, 0), (256, 128)])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (False, None), (True, 5), (False, 5)])
def test_attention_in_blocks_of_queries_is_plain_attention(
    causal: bool, window: int | None, block: int, short: int, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "QUERY_BLOCK", block)
    monkeypatch.setattr(plans, "SHORT", short)
    plans.bundled.cache_clear()
    torch.manual_seed(0)
    q, k, v = (torch.randn(h, 60, 8, dtype=torch.float64, requires_grad=True) for h in (4, 2, 2))
    plan = plans.Plan((Segment(0, 13), Segment(13, 40, 0), Segment(40, 60, 0)))
    expected = attention.reference(q, k, v, plan, 0.3, causal, window, softcap)
    wanted = torch.autograd.grad((expected**2).sum(), (q, k, v))
    ours = attention.fast(q, k, v, plan, 0.3, causal, window, softcap)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    for got, want in zip(torch.autograd.grad((ours**2).sum(), (q, k, v)), wanted):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
    plans.bundled.cache_clear()


@pytest.mark.parametrize("head", ["plain", "bias", "scaled", "soft-capped"])
def test_loss_without_logits_equals_cross_entropy(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("tutelage.engine.loss.CHUNK_VALUES", 7 * 50)  # seven targets at once
    hidden = torch.randn(24, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(50, dtype=torch.float64, requires_grad=True) if head == "bias" else None
    rule = Head(weight, bias, 0.37 if head == "scaled" else 1.0, 3.0 if head == "soft-capped" else None)
    labels, weights = torch.randint(0, 50, (24,)), torch.rand(24, dtype=torch.float64)
    inputs = [hidden, weight] + ([bias] if bias is not None else [])
    ours = linear_cross_entropy(hidden, rule, labels, weights)
    plain = linear_cross_entropy(hidden, rule, labels, weights, fast=False)
    assert ours.correct == plain.correct
    torch.testing.assert_close(ours.total, plain.total, rtol=1e-12, atol=0)
    for got, want in zip(torch.autograd.grad(ours.total / 3, inputs), torch.autograd.grad(plain.total / 3, inputs)):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)
