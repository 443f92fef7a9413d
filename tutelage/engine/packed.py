"""Exact attention per segment as plain batched matrix products over blocks of queries, forward and backward.

torch's CPU flash kernel takes 0.94 ms for 256 tokens in 9 heads of 64 (bf16, two cores with AVX512-BF16), this forward
0.41 ms, and the backward is further apart: at these sizes a matrix product over all heads is what the processor does
best. The query heads that share a key head are rows of one product, so `enable_gqa` costs no copy, and scores are kept for
one block of queries only: [heads, 256, T] values, never T x T. The backward recomputes them (as FlashAttention does, Dao
2023, arXiv 2307.08691 §2.3).

Layout: queries [Hk, N, G, D] (key head, token, query head of that key head), keys and values [Hk, N, D].
"""

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from tutelage.engine import bundles
from tutelage.engine.plan import Block, Plan, blocks, bundled, with_parent


def forward(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, causal: bool, window: int | None, softcap: float | None,
    kept: list[Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Queries already scaled → [N, Hk, G, D]. What `backward` need not compute again goes into `kept`."""
    heads, _, groups, _ = q.shape
    parts, layout = list[Tensor](), bundled(plan.segments, causal, window, q.dtype, q.device)
    for bundle in layout.together:
        p, part = bundles.forward(q, k, v, bundle, softcap)
        parts.append(part)
        if kept is not None and softcap is None:
            kept.append(p)
    for segment in layout.apart:
        keys, values = with_parent(k, plan, segment), with_parent(v, plan, segment)
        for block in blocks(plan, segment, causal, window):
            p, _ = _weights(q, keys, block, causal, window, softcap)
            parts.append(torch.bmm(p, values[:, block.first : block.last]).view(heads, -1, groups, v.shape[-1]))
    if layout.places is None:  # one copy, not two
        return torch.cat([part.transpose(0, 1) for part in parts]).contiguous()
    return layout.in_order(parts).transpose(0, 1).contiguous()


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, plan: Plan, causal: bool, window: int | None,
    softcap: float | None, kept: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, given the gradient [N, Hk, G, D] of `out`, and what `forward` kept, or nothing."""
    less = _less_delta(grad, out)
    ones = v.new_ones(*v.shape[:2], less.shape[-1] - v.shape[-1])
    wide = torch.cat((v, ones), dim=-1)  # the product with `less` is gvᵀ - delta: no pass over [T, T] to subtract it
    layout = bundled(plan.segments, causal, window, q.dtype, q.device)
    dqs, dks, dvs = list[Tensor](), list[Tensor](), list[Tensor]()
    above: list[tuple[int, int, Tensor, Tensor]] = []  # a parent's [start, stop), and what its k and v are given
    for bundle, p in zip_longest(layout.together, kept):
        (dq, dk, dv), shared = bundles.backward(less, q, k, wide, v.shape[-1], bundle, p, softcap)
        dqs.append(dq)
        dks.append(dk)
        dvs.append(dv)
        above += [(bundle.start, bundle.stop, *shared)] if shared else []  # type: ignore[list-item]
    for segment in layout.apart:
        keys, values = with_parent(k, plan, segment), with_parent(wide, plan, segment)
        parts = list(blocks(plan, segment, causal, window))
        each, dk, dv = _segment_backward(less, q, keys, values, v.shape[-1], parts, causal, window, softcap)
        start, stop = plan.keys(segment)
        dqs += each
        dks.append(dk[:, stop - start :])
        dvs.append(dv[:, stop - start :])
        above += [(start, stop, dk[:, : stop - start], dv[:, : stop - start])] if stop > start else []
    dq, dk, dv = (layout.in_order(parts) for parts in (dqs, dks, dvs))
    for start, stop, to_k, to_v in above:
        dk[:, start:stop] += to_k
        dv[:, start:stop] += to_v
    return dq, dk, dv


def _weights(
    q: Tensor, keys: Tensor, block: Block, causal: bool, window: int | None, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Softmax weights [Hk, T·G, keys] of one block, and with soft-capping the derivative of the cap."""
    heads, _, groups, dim = q.shape
    rows = q[:, block.start : block.stop].reshape(heads, -1, dim)
    scores = torch.bmm(rows, keys[:, block.first : block.last].transpose(1, 2))
    slope = None
    if softcap is not None:
        tanh = torch.tanh(scores / softcap)
        scores, slope = tanh * softcap, 1 - tanh * tanh
    block.hide(scores.view(heads, block.stop - block.start, groups, -1), causal, window)
    return torch.softmax(scores, -1), slope


def _less_delta(grad: Tensor, out: Tensor) -> Tensor:
    """[Hk, N, G, D + 1 or 2]: the gradient with -delta behind it, delta = Σ g·out; in two parts where one would round it."""
    exact = torch.float64 if grad.dtype == torch.float64 else torch.float32
    delta = (grad * out).sum(-1, keepdim=True, dtype=exact).neg_()
    high = delta.to(grad.dtype)
    parts = (high,) if grad.dtype == exact else (high, (delta - high).to(grad.dtype))
    return torch.cat((grad, *parts), dim=-1).transpose(0, 1).contiguous()


def _segment_backward(
    less: Tensor, q: Tensor, keys: Tensor, wide: Tensor, width: int, parts: list[Block], causal: bool, window: int | None,
    softcap: float | None,
) -> tuple[list[Tensor], Tensor, Tensor]:  # fmt: skip
    """p = softmax(s); dv = pᵀg; ds = p(gvᵀ - delta); dq = ds k; dk = dsᵀq. Returns dq of each block, and those of keys and
    values."""
    heads, _, groups, dim = q.shape
    dqs = []
    dkeys, dvalues = torch.zeros_like(keys), keys.new_zeros(*keys.shape[:2], width)
    for block in parts:
        rows = q[:, block.start : block.stop].reshape(heads, -1, dim)
        g = less[:, block.start : block.stop].reshape(heads, -1, less.shape[-1])
        p, slope = _weights(q, keys, block, causal, window, softcap)
        seen = slice(block.first, block.last)
        ds = torch.bmm(g, wide[:, seen].transpose(1, 2)).mul_(p)
        if slope is not None:
            ds *= slope
        dqs.append(torch.bmm(ds, keys[:, seen]).view(heads, -1, groups, dim))
        part_v, part_k = torch.bmm(p.transpose(1, 2), g[..., :width]), torch.bmm(ds.transpose(1, 2), rows)
        if block.last - block.first == keys.shape[1] and len(parts) == 1:
            return dqs, part_k, part_v
        dvalues[:, seen] += part_v
        dkeys[:, seen] += part_k
    return dqs, dkeys, dvalues
