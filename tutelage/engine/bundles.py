"""Attention of many short segments at once, forward and backward: the mathematics of `packed`, in the rows of a `Bundle`.

The parent's keys, where there is a parent, are multiplied with all its children's queries in one product (Juravsky et al.
2024, arXiv 2402.05099 §3.1, who do it for decoding).
"""

import torch
from torch import Tensor

from tutelage.engine.plan import Bundle


def forward(q: Tensor, k: Tensor, v: Tensor, bundle: Bundle, softcap: float | None, out: Tensor) -> Tensor:
    """Softmax weights [Hk·S, L·G, P + L] of queries [Hk, N, G, D], already scaled, with keys [Hk, N, D]; writes the bundle's
    tokens of `out` [N, Hk, G, D]."""
    heads, _, groups, _ = q.shape
    rows, own = _taken(q, bundle), _taken(k, bundle)
    p, _ = _weights(rows, own, k[:, bundle.start : bundle.stop], bundle, softcap)
    part = _times(p, _taken(v, bundle), v[:, bundle.start : bundle.stop])
    out.index_copy_(0, bundle.tokens, _at_tokens(part, heads, groups, bundle).transpose(0, 1))
    return p


def backward(
    less: Tensor, q: Tensor, k: Tensor, wide: Tensor, bundle: Bundle, p: Tensor | None, softcap: float | None, dq: Tensor,
    dk: Tensor, dv: Tensor,
) -> None:  # fmt: skip
    """`less` and `wide` as in `packed.backward`, and the weights if they were kept. Writes the bundle's tokens of the
    gradients; adds to its parent's."""
    heads, _, groups, _ = q.shape
    width, inherited = dv.shape[-1], bundle.stop - bundle.start
    parent = slice(bundle.start, bundle.stop)
    rows, own = _taken(q, bundle), _taken(k, bundle)
    slope = None
    if p is None:
        p, slope = _weights(rows, own, k[:, parent], bundle, softcap)
    g = less.index_select(1, bundle.index)
    if inherited:  # empty places see the parent's keys and must not add to their gradients
        g.view(heads, *bundle.empty.shape, -1).masked_fill_(bundle.empty[:, :, None], 0.0)
    g = g.view(*rows.shape[:2], -1)
    ds = _against(g, _taken(wide, bundle), wide[:, parent]).mul_(p)
    if slope is not None:
        ds *= slope
    dq.index_copy_(1, bundle.tokens, _at_tokens(_times(ds, own, k[:, parent]), heads, groups, bundle))
    for into, weights, given in ((dk, ds, rows), (dv, p, g[..., :width])):
        part = torch.bmm(weights[..., inherited:].transpose(1, 2), given)
        into.index_copy_(1, bundle.tokens, _at_tokens(part, heads, 1, bundle).squeeze(2))
        if inherited:
            shared = weights[..., :inherited].reshape(heads, -1, inherited)
            into[:, parent] += torch.bmm(shared.transpose(1, 2), given.reshape(heads, shared.shape[1], -1))


def _taken(x: Tensor, bundle: Bundle) -> Tensor:
    """[heads, N, ..., D] at the bundle's places: [heads·S, L·..., D]."""
    return x.index_select(1, bundle.index).view(x.shape[0] * len(bundle.empty), -1, x.shape[-1])


def _at_tokens(x: Tensor, heads: int, groups: int, bundle: Bundle) -> Tensor:
    """[heads·S, L·groups, D] without the places that hold no token: [heads, n, groups, D]."""
    return x.view(heads, len(bundle.index), groups, x.shape[-1]).index_select(1, bundle.where)


def _against(rows: Tensor, own: Tensor, inherited: Tensor) -> Tensor:
    """Products of rows [heads·S, L·G, D] with their own keys and with their parent's: [heads·S, L·G, P + L]."""
    scores = torch.bmm(rows, own.transpose(1, 2))
    if not inherited.shape[1]:
        return scores
    shared = torch.bmm(rows.view(len(inherited), -1, rows.shape[-1]), inherited.transpose(1, 2))
    return torch.cat((shared.view(*rows.shape[:2], -1), scores), -1)


def _times(p: Tensor, own: Tensor, inherited: Tensor) -> Tensor:
    """Sums of own and inherited values, weighted by p [heads·S, L·G, P + L]."""
    count = inherited.shape[1]
    result = torch.bmm(p[..., count:], own)
    if count:
        shared = torch.bmm(p[..., :count].reshape(len(inherited), -1, count), inherited)
        result += shared.view(result.shape)
    return result


def _weights(
    rows: Tensor, own: Tensor, inherited: Tensor, bundle: Bundle, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Softmax weights [heads·S, L·G, P + L], and with soft-capping the derivative of the cap."""
    scores, slope = _against(rows, own, inherited), None
    if softcap is not None:
        tanh = torch.tanh(scores / softcap)
        scores, slope = tanh * softcap, 1 - tanh * tanh
    count, length = bundle.empty.shape
    own_scores = scores[..., inherited.shape[1] :].view(-1, count, length, rows.shape[1] // length, length)
    own_scores += bundle.hidden
    return torch.softmax(scores, -1), slope
