"""Attention over a layout: each segment sees itself and its parent, and no mask over the whole pack is ever built.

Enters transformers through its attention registry. The fast path takes torch's CPU flash kernel forward, keeps its
log-sum-exp, and writes the backward as batched matrix products over blocks of queries, with the query heads of one
key-value head folded into rows (FlashAttention-2's backward, Dao 2023, arXiv 2307.08691 §3.1.2, without its tiling of
keys): torch's own flash backward is several times slower on short documents. `reference` is the plain form of the same.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from tutelage.encode.types import Segment

NAME = "tutelage"
QUERY_BLOCK = 512  # rows of scores held at once in the backward: H x 512 x T values


@dataclass(frozen=True)
class Plan:
    """What attention must know of a layout. `fast` chooses the kernel, never the result."""

    segments: tuple[Segment, ...]
    fast: bool = True

    def keys(self, segment: Segment) -> tuple[int, int]:
        """[start, stop) of the parent whose keys come before the segment's own; empty without a parent."""
        if segment.parent is None:
            return 0, 0
        parent = self.segments[segment.parent]
        return parent.start, parent.stop


def allowed(rows: range, columns: int, causal: bool, window: int | None, device: torch.device) -> Tensor:
    """[rows, columns] bool: may query i (numbered like the keys) see key j?"""
    i = torch.arange(rows.start, rows.stop, device=device)[:, None]
    j = torch.arange(columns, device=device)[None]
    mask = (j <= i) if causal else torch.ones(len(rows), columns, dtype=torch.bool, device=device)
    if window is not None:
        mask = mask & (i - j < window) & (j - i < window)
    return mask


def with_parent(x: Tensor, plan: Plan, segment: Segment) -> Tensor:
    """[heads, parent + own, D] of keys or values."""
    start, stop = plan.keys(segment)
    own = x[:, segment.start : segment.stop]
    return torch.cat((x[:, start:stop], own), dim=1) if stop > start else own


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
        mask = allowed(range(length - (segment.stop - segment.start), length), length, causal, window, q.device)
        weights = scores.masked_fill(~mask, float("-inf")).float().softmax(-1) if scores.dtype != torch.float64 else (
            scores.masked_fill(~mask, float("-inf")).softmax(-1)
        )  # fmt: skip
        out = out.index_copy(
            1, torch.arange(segment.start, segment.stop, device=q.device), weights.to(q.dtype) @ values
        )
    return out


class _Packed(torch.autograd.Function):
    """Softmax attention per segment with an explicit, blocked backward."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, causal: bool, window: int | None
    ) -> Tensor:
        groups = q.shape[0] // k.shape[0]
        out = torch.empty_like(q)
        lse = torch.empty(q.shape[:2], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
        for segment in plan.segments:
            queries = q[:, segment.start : segment.stop]
            keys = with_parent(k, plan, segment).repeat_interleave(groups, 0)
            values = with_parent(v, plan, segment).repeat_interleave(groups, 0)
            tall, length = queries.shape[1], keys.shape[1]
            mask = None
            if tall < length or (window is not None and window < length):
                mask = allowed(range(length - tall, length), length, causal, window, q.device)
                mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, float("-inf"))[None, None]
            part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                queries[None], keys[None], values[None], 0.0, causal and mask is None, attn_mask=mask, scale=scale
            )
            out[:, segment.start : segment.stop] = part[0]
            lse[:, segment.start : segment.stop] = part_lse[0]
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.arguments = plan, scale, causal, window
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        plan, scale, causal, window = ctx.arguments
        grad = gradients[0]
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        delta = (grad * out).sum(-1, dtype=lse.dtype)
        for segment in plan.segments:
            _segment_backward(segment, plan, (q, k, v, grad, lse, delta), (dq, dk, dv), scale, causal, window)
        return dq, dk, dv, None, None, None, None


def _segment_backward(
    segment: Segment, plan: Plan, saved: tuple[Tensor, ...], into: tuple[Tensor, ...], scale: float, causal: bool,
    window: int | None,
) -> None:  # fmt: skip
    """Add one segment's gradients: per block of queries p = exp(s - lse), dv += pᵀg, ds = p(gvᵀ - delta), dq, dk."""
    q, k, v, grad, lse, delta = saved
    dq, dk, dv = into
    heads, groups, dim = k.shape[0], q.shape[0] // k.shape[0], q.shape[2]
    keys, values = with_parent(k, plan, segment), with_parent(v, plan, segment)
    inherited = keys.shape[1] - (segment.stop - segment.start)
    dkeys, dvalues = torch.zeros_like(keys), torch.zeros_like(values)
    for start in range(segment.start, segment.stop, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, segment.stop)
        rows = range(inherited + start - segment.start, inherited + stop - segment.start)
        seen = rows.stop if causal else keys.shape[1]
        tall = stop - start
        folded = (heads, groups * tall, dim)  # query heads that share a key head become rows of one product
        qs, gs = q[:, start:stop].reshape(folded), grad[:, start:stop].reshape(folded)
        ks, vs = keys[:, :seen], values[:, :seen]
        p = torch.bmm(qs, ks.transpose(1, 2)).view(heads * groups, tall, seen)
        p = p.to(lse.dtype).mul_(scale).sub_(lse[:, start:stop, None])
        mask = allowed(rows, seen, causal, window, q.device)
        p = p.masked_fill_(~mask, float("-inf")).exp_()
        low = p.to(q.dtype).view(heads, groups * tall, seen)
        dvalues[:, :seen] += torch.bmm(low.transpose(1, 2), gs)
        ds = torch.bmm(gs, vs.transpose(1, 2)).view(heads * groups, tall, seen)
        ds = ds.to(lse.dtype).sub_(delta[:, start:stop, None]).mul_(p).mul_(scale).to(q.dtype)
        ds = ds.view(heads, groups * tall, seen)
        dq[:, start:stop] = torch.bmm(ds, ks).view(heads * groups, tall, dim)
        dkeys[:, :seen] += torch.bmm(ds.transpose(1, 2), qs)
    dk[:, segment.start : segment.stop] += dkeys[:, inherited:]
    dv[:, segment.start : segment.stop] += dvalues[:, inherited:]
    if inherited:
        first, last = plan.keys(segment)
        dk[:, first:last] += dkeys[:, :inherited]
        dv[:, first:last] += dvalues[:, :inherited]


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
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    causal = bool(getattr(module, "is_causal", True))
    q, k, v = query[0], key[0], value[0]
    plain = (
        not plan.fast or softcap is not None or dropout > 0 or q.device.type != "cpu" or v.shape[-1] != q.shape[-1]
    )  # fmt: skip
    if dropout > 0:
        raise RuntimeError("attention dropout is not implemented for packed rows; set attention_dropout to 0")
    out = (
        reference(q, k, v, plan, scale, causal, sliding_window, softcap)
        if plain
        else _Packed.apply(q, k, v, plan, scale, causal, sliding_window)  # type: ignore[no-untyped-call]
    )
    return out.transpose(0, 1)[None], None


def register() -> None:
    """Make `attend` known to transformers under `NAME`; doing it again changes nothing."""
    AttentionInterface.register(NAME, attend)


def switch_off(model: Any) -> None:
    """Give the model back the attention that transformers has for it, which knows padding."""
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
