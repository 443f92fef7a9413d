"""Attention of an encoder's layout: its segments side by side in rows of one length, forward and backward.

As in `bundles`, short segments are masked from each other and multiplied together. Here all of a layout is: each token's head
is read by one gather from where the linear product left it, and stays at its place until the gradients are put back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tutelage.encode.types import Segment
from tutelage.engine.bundles import of_scores
from tutelage.engine.noise import drawn_, dropped
from tutelage.engine.plan import SHORT, even_blocks, next_rows, placed, unseen

WIDTH = 32  # places are a multiple of this: torch's softmax of bf16 takes twice the time for 48 places or 72, and 4 times for 56


@dataclass(frozen=True)
class Group:
    """Rows of one length L, each of one head: places [start, stop) are `rows` x L.

    Short segments share rows: `hidden` [rows, L, L] is 0 where a query may see a key, else -inf, and empty places see each
    other. A long one has a row, of which it takes `length` places, and `hidden` [1, 1, L] hides the keys of the others.
    """

    start: int
    stop: int
    rows: int
    length: int
    hidden: Tensor

    def of(self, x: Tensor) -> Tensor:
        """[places, D] → [rows, L, D], a view."""
        return x[self.start : self.stop].view(self.rows, -1, x.shape[-1])

    @property
    def long(self) -> bool:
        """Whether it is one long segment, whose weights are computed again rather than kept."""
        return self.hidden.shape[-1] > SHORT

    def blocks(self) -> list[slice]:
        """The queries that are handled at once: all of short segments."""
        return [slice(start, stop) for start, stop in even_blocks(self.hidden.shape[-1])]


@dataclass(frozen=True)
class Grouped:
    """A layout in groups. Of N tokens' heads, as rows [N·heads, D], place m holds `taken[m]`, and row r stands at `places[r]`."""

    segments: tuple[Segment, ...]
    heads: int
    taken: Tensor
    places: Tensor
    groups: tuple[Group, ...]

    def gather(self, x: Tensor) -> Tensor:
        """[N, heads·D] → [places, D]."""
        return x.view(len(self.places), -1).index_select(0, self.taken)

    def spread(self, x: Tensor) -> Tensor:
        """[places, D] → [N, heads·D]."""
        return x.index_select(0, self.places).view(-1, self.heads * x.shape[1])

    def masks(self, share: float, dtype: torch.dtype) -> list[Tensor]:
        """Of dropout of a share of the softmax weights, drawn in the order in which `forward` uses them; none without a share."""
        if not share:
            return []
        shapes = [
            (group.rows, block.stop - block.start, group.hidden.shape[-1])
            for group in self.groups
            for block in group.blocks()
        ]
        return [drawn_(self.taken.new_empty(shape, dtype=dtype), share) for shape in shapes]

    @staticmethod
    def of(segments: tuple[Segment, ...], heads: int, dtype: torch.dtype, device: torch.device) -> "Grouped":
        """The groups of a layout's segments; scores will be of `dtype`."""
        groups, taken, start = list[Group](), list[np.ndarray](), 0
        tokens = max(segment.stop for segment in segments)
        first, step = np.zeros(tokens, np.int64), np.zeros(tokens, np.int64)  # a token's place, and from head to head
        each = np.arange(heads)[:, None]
        for filled, width in _rows(segments):
            count = len(filled) + (len(filled) % 2 if len(filled) > 4 else 0)  # few shapes of products
            token, owner = (values.reshape(-1) for values in placed(filled, count, width))
            there, size = np.flatnonzero(owner >= 0), count * width
            first[token[there]], step[token[there]] = start + there, size
            taken.append((token * heads + each).reshape(-1))
            hidden = _hidden(torch.from_numpy(owner.reshape(count, width)).to(device), heads, dtype)
            groups.append(Group(start, start + heads * size, heads * count, len(there), hidden))
            start += heads * size
        places = torch.from_numpy((first[:, None] + step[:, None] * each.T).reshape(-1))
        held = torch.from_numpy(np.concatenate(taken))
        return Grouped(segments, heads, held.to(device), places.to(device), tuple(groups))


def _rows(segments: Sequence[Segment]) -> list[tuple[list[list[Segment]], int]]:
    """Rows of segments, and how many places they have. A long segment has one to itself; short ones share rows of `ROW` places,
    or of what the longest needs with others of more than half its length."""
    ordered = sorted((s for s in segments if s.stop > s.start), key=lambda s: s.start - s.stop)
    short = [s for s in ordered if s.stop - s.start <= SHORT]
    found = [next_rows([s], WIDTH)[:2] for s in ordered[: len(ordered) - len(short)]]
    while short:
        rows, width, short = next_rows(short, WIDTH)
        found.append((rows, width))
    return found


def _hidden(owners: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """`Group.hidden`, for the numbers [S, L] of the segments at each place of a row, or -1."""
    if owners.shape[1] > SHORT:
        return unseen(owners[:, None] >= 0, dtype)
    mask = unseen(owners[:, :, None] == owners[:, None, :], dtype)
    return mask.expand(heads, *mask.shape).reshape(-1, *mask.shape[1:])


def forward(
    q: Tensor, k: Tensor, v: Tensor, grouped: Grouped, kept: list[Tensor], masks: Sequence[Tensor] = ()
) -> Tensor:
    """What attention gives the places, [places, D] as q, k and v are, with dropout of its weights by `masks`. Short segments'
    softmax weights go into `kept`."""
    out, dropping = torch.empty_like(v), iter(masks)
    for group in grouped.groups:
        queries, keys, values, results = (group.of(x) for x in (q, k, v, out))
        for block in group.blocks():
            p = _weights(queries[:, block], keys, group.hidden)
            torch.bmm(dropped(p, next(dropping, None)), values, out=results[:, block])
            kept += [] if group.long else [p]
    return out


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, grouped: Grouped, kept: Sequence[Tensor], masks: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v, given that of what `forward` gave, what it kept, or nothing, and its masks; all [places, D]."""
    found = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    saved, dropping, scale = iter(kept), iter(masks), q.shape[-1] ** -0.5
    for group in grouped.groups:
        queries, keys, values, gradients = (group.of(x) for x in (q, k, v, grad))
        dq, dk, dv = (group.of(x) for x in found)
        if group.long:  # its empty places see its keys, and must not add to their gradients
            gradients[:, group.length :] = 0
        for number, block in enumerate(group.blocks()):
            rows, g = queries[:, block], gradients[:, block]
            p = next(saved) if kept and not group.long else _weights(rows, keys, group.hidden)
            mask = next(dropping, None)
            ds = of_scores(dropped(torch.bmm(g, values.transpose(1, 2)), mask), p)
            dq[:, block].baddbmm_(ds, keys, beta=0, alpha=scale)
            dk.baddbmm_(ds.transpose(1, 2), rows, beta=min(number, 1), alpha=scale)
            dv.baddbmm_(dropped(p, mask).transpose(1, 2), g, beta=min(number, 1))
    return found


def _weights(q: Tensor, k: Tensor, hidden: Tensor) -> Tensor:
    """Softmax weights [rows, T, L] of queries [rows, T, D] and keys [rows, L, D]."""
    return torch.softmax(torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5), -1)
