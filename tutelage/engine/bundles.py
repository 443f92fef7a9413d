"""Attention of many short segments at once, forward and backward: the mathematics of `packed`, in the rows of a `Bundle`.

The parent's keys, where there is a parent, are multiplied with all its children's queries in one product (Juravsky et al.
2024, arXiv 2402.05099 §3.1, who do it for decoding).
"""

import torch
from torch import Tensor

from tutelage.engine.plan import Bundle


def forward(q: Tensor, k: Tensor, v: Tensor, bundle: Bundle, softcap: float | None) -> Tensor:
    """What comes of the bundle's places [Hk, S·L, G, D], of queries [Hk, N, G, D], already scaled, and keys [Hk, N, D]."""
    p, _ = _weights(_taken(q, bundle), _taken(k, bundle), k[:, bundle.start : bundle.stop], bundle, softcap)
    part = _times(p, _taken(v, bundle), v[:, bundle.start : bundle.stop])
    return part.view(q.shape[0], len(bundle.index), q.shape[2], -1)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bundle: Bundle, softcap: float | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of q [Hk, S·L, G, D], k and v [Hk, S·L, D] at the bundle's places, and those of its parent's k and v, if it
    has one. `grad` is [Hk, N, G, D]."""
    heads, _, groups, _ = q.shape
    inherited = bundle.stop - bundle.start
    parent = slice(bundle.start, bundle.stop)
    rows, own = _taken(q, bundle), _taken(k, bundle)
    p, slope = _weights(rows, own, k[:, parent], bundle, softcap)
    g = grad.index_select(1, bundle.index)
    if inherited:  # empty places see the parent's keys and must not add to their gradients
        g.view(heads, *bundle.empty.shape, -1).masked_fill_(bundle.empty[:, :, None], 0.0)
    g = g.view(*rows.shape[:2], -1)
    ds = of_scores(_against(g, _taken(v, bundle), v[:, parent]), p)
    if slope is not None:
        ds *= slope
    found, shared = [_times(ds, own, k[:, parent]).view(heads, len(bundle.index), groups, -1)], []
    for weights, given in ((ds, rows), (p, g)):
        part = torch.bmm(weights[..., inherited:].transpose(1, 2), given)
        found.append(part.view(heads, len(bundle.index), -1))
        if inherited:
            above = weights[..., :inherited].reshape(heads, -1, inherited)
            shared.append(torch.bmm(above.transpose(1, 2), given.reshape(heads, above.shape[1], -1)))
    return found, shared


def of_scores(dp: Tensor, p: Tensor) -> Tensor:
    """The gradient of scores, p (dp - Σ p dp), of that of their softmax weights p, in one pass."""
    ds: Tensor = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
    return ds


def _taken(x: Tensor, bundle: Bundle) -> Tensor:
    """[heads, N, ..., D] at the bundle's places: [heads·S, L·..., D]."""
    return x.index_select(1, bundle.index).view(x.shape[0] * len(bundle.empty), -1, x.shape[-1])


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
