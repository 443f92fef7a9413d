"""Attention over a layout: each segment sees itself and its parent, and no mask over the whole pack is ever built.

Enters transformers through its attention registry. `fast` runs the matrix products of `packed`; `reference` is the plain
form of the same, differentiated by torch.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from tutelage.engine import packed
from tutelage.engine.plan import Plan, allowed, with_parent

NAME = "tutelage"


def reference(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, causal: bool, window: int | None, softcap: float | None
) -> Tensor:
    """The plain form: q [H, N, D], k and v [Hk, N, D] → [H, N, D], one softmax per segment, differentiated by torch."""
    groups = q.shape[0] // k.shape[0]
    out = torch.zeros_like(q[..., : v.shape[-1]])
    for segment in plan.segments:
        keys = with_parent(k, plan, segment).repeat_interleave(groups, 0)
        values = with_parent(v, plan, segment).repeat_interleave(groups, 0)
        scores = q[:, segment.start : segment.stop] @ keys.transpose(1, 2) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        length = keys.shape[1]
        rows = range(length - (segment.stop - segment.start), length)
        mask = allowed(rows, range(length), causal, window, q.device)
        weights = scores.masked_fill(~mask, float("-inf")).float().softmax(-1) if scores.dtype != torch.float64 else (
            scores.masked_fill(~mask, float("-inf")).softmax(-1)
        )  # fmt: skip
        out = out.index_copy(
            1, torch.arange(segment.start, segment.stop, device=q.device), weights.to(q.dtype) @ values
        )
    return out


class _Packed(torch.autograd.Function):
    """The fast path: q [Hk, N, G, D] scaled, k and v [Hk, N, D] → [N, Hk, G, D]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, causal: bool, window: int | None, softcap: float | None
    ) -> Tensor:
        out = packed.forward(q, k, v, plan, causal, window, softcap)
        ctx.save_for_backward(q, k, v)
        ctx.arguments = plan, causal, window, softcap
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*packed.backward(gradients[0], *ctx.saved_tensors, *ctx.arguments), None, None, None, None)


def fast(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, causal: bool, window: int | None, softcap: float | None
) -> Tensor:
    """The same as `reference`, through `packed`."""
    heads, tokens, _ = k.shape
    folded = (q * scale).view(heads, -1, tokens, q.shape[-1]).transpose(1, 2).contiguous()
    out: Tensor = _Packed.apply(folded, k, v, plan, causal, window, softcap)  # type: ignore[no-untyped-call]
    return out.view(tokens, q.shape[0], v.shape[-1]).transpose(0, 1)


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, sliding_window: int | None = None, softcap: float | None = None,
    plan: Plan | None = None, **ignored: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """transformers' attention interface: query [1, H, N, D], key and value [1, Hk, N, D] → [1, N, H, D].

    Raises RuntimeError without a plan: a padded batch would otherwise silently attend to its padding.
    """
    if plan is None:
        raise RuntimeError("the `tutelage` attention needs a plan; switch the model to `sdpa` for padded batches")
    if dropout > 0:
        raise RuntimeError("attention dropout is not implemented for packed rows; set attention_dropout to 0")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    causal = bool(getattr(module, "is_causal", True))
    kernel = fast if plan.fast else reference
    out = kernel(query[0], key[0], value[0], plan, scale, causal, sliding_window, softcap)
    return out.transpose(0, 1)[None], None


def register() -> None:
    """Make `attend` known to transformers under `NAME`; doing it again changes nothing."""
    AttentionInterface.register(NAME, attend)


def switch_off(model: Any) -> None:
    """Give the model back the attention that transformers has for it, which knows padding."""
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
