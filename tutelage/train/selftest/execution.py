"""One way to compute the loss and the gradients of a step: which fast paths are on, and how its rows are grouped."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.encode.layout import shared_prefix
from tutelage.encode.types import Encoded
from tutelage.engine.attention import NAME
from tutelage.engine.lora_linear import LoraLinear
from tutelage.engine.memory import saved_bytes
from tutelage.engine.stack import Keep
from tutelage.tasks.batching import packed as layouts
from tutelage.train.loop import TrainState, accumulate

PLAIN_ATTENTION = "eager"  # transformers' own, which knows windows and soft caps in every family


@dataclass(frozen=True)
class Execution:
    """Switches of a step; the defaults are the plain way: each row alone, and no function of our own."""

    attention: bool = False  # ours in place of transformers'
    chunked_loss: bool = False  # without logits
    lora_product: bool = False  # as one function
    packs: int = 0  # micro-batches at least; 0: each row alone
    share_prefix: bool = False
    layers: bool = False  # our own in place of the model's, where they are known
    keep: Keep = Keep.ALL  # what layers save; the rest is computed again in the backward pass


@dataclass(frozen=True)
class Computed:
    """What an execution gave: the step's loss, every gradient, and the bytes that its forward passes kept."""

    loss: float
    gradients: dict[str, Tensor]
    kept: int


def compute(state: TrainState, rows: Sequence[Encoded], how: Execution) -> Computed:
    """The loss and gradients of `rows` as one step, through the loop's own grouping and accumulation."""
    prefix = shared_prefix(rows) if how.share_prefix else 0
    lengths = [len(row.ids) - prefix for row in rows]
    tokens = prefix + max(math.ceil(sum(lengths) / max(how.packs, 1)), *lengths)
    plan = replace(state.plan, packed=how.packs > 0, share_prefix=how.share_prefix, tokens=tokens)
    backbone = replace(
        state.backbone, packs=how.attention, plain_logits=state.backbone.plain_logits or not how.chunked_loss,
        stack=state.backbone.stack if how.layers else None,
    ).keeping(how.keep)  # fmt: skip
    packs = layouts(rows, plan)
    if len(packs) < how.packs:
        raise RuntimeError(f"{len(packs)} micro-batches were made where {how.packs} are to be compared")
    state.optimizer.zero_grad()
    with switched(state.backbone.model, how), saved_bytes(state.backbone.model) as kept:
        loss, *_ = accumulate(replace(state, backbone=backbone), packs)
    backbone.keeping(Keep.ALL)
    return Computed(loss, taken(state), kept.bytes)


def one_batch(state: TrainState, rows: Sequence[Encoded]) -> Computed:
    """The same without anything of ours but the masks: one padded batch, transformers' model, torch's cross-entropy."""
    model, width = state.backbone.model, max(len(row.ids) for row in rows)
    device = state.plan.device
    ids, seen = (torch.zeros(len(rows), width, dtype=torch.int64, device=device) for _ in range(2))
    weights = torch.zeros(len(rows), width, device=device)
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids[number, :length] = torch.from_numpy(row.ids.astype("int64"))
        weights[number, :length] = torch.from_numpy(row.weights)
        seen[number, :length] = 1
    state.optimizer.zero_grad()
    with switched(model, Execution()), saved_bytes(model) as kept:
        logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits[:, :-1]
        losses = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        loss.backward()  # type: ignore[no-untyped-call]
    return Computed(float(loss.detach()), taken(state), kept.bytes)


def taken(state: TrainState) -> dict[str, Tensor]:
    """The gradients of everything that trains; a parameter without one is listed as zero."""
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
        for name, p in state.trainable.parameters.items()
    }
    state.optimizer.zero_grad()
    return found


@contextmanager
def switched(model: Any, how: Execution) -> Iterator[None]:
    """`model` with the attention and the LoRA product of `how`, without dropout; as it was at the end."""
    before, layers = model.config._attn_implementation, [m for m in model.modules() if isinstance(m, LoraLinear)]
    states = [(layer.fast, layer.training) for layer in layers]
    model.set_attn_implementation(NAME if how.attention else PLAIN_ATTENTION)
    for layer in layers:
        layer.fast = how.lora_product
        layer.train(False)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        for layer, (fast, training) in zip(layers, states):
            layer.fast = fast
            layer.train(training)
