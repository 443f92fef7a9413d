"""What attention must know of a layout, and which keys a block of its queries may see."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tutelage.encode.types import Segment

# Rows of queries handled at once: on this many the causal half that is never looked at (a quarter of a 512-token row) is
# worth more than the extra calls cost, and no more than [heads, 256, T] scores are ever held.
QUERY_BLOCK = 256
# Segments of at most so many tokens are padded to a common length and multiplied together: a product per segment of 16
# tokens and 12 heads costs 19 µs, of which its 0.2 million operations are none.
SHORT = 128


@dataclass(frozen=True)
class Plan:
    """A layout's segments. `fast` chooses the kernel, never the result."""

    segments: tuple[Segment, ...]
    fast: bool = True

    def keys(self, segment: Segment) -> tuple[int, int]:
        """[start, stop) of the parent whose keys come before the segment's own; empty without a parent."""
        if segment.parent is None:
            return 0, 0
        parent = self.segments[segment.parent]
        return parent.start, parent.stop

    def inherited(self, segment: Segment) -> int:
        """How many keys the parent adds."""
        start, stop = self.keys(segment)
        return stop - start


def with_parent(x: Tensor, plan: Plan, segment: Segment) -> Tensor:
    """[heads, parent + own, D] of keys or values; a view where there is no parent."""
    start, stop = plan.keys(segment)
    own = x[:, segment.start : segment.stop]
    return torch.cat((x[:, start:stop], own), dim=1) if stop > start else own


def allowed(rows: range, columns: range, causal: bool, window: int | None, device: torch.device) -> Tensor:
    """[rows, columns] bool: may query i (numbered like the keys) see key j?"""
    i = torch.arange(rows.start, rows.stop, device=device)[:, None]
    j = torch.arange(columns.start, columns.stop, device=device)[None]
    mask = (j <= i) if causal else torch.ones(len(rows), len(columns), dtype=torch.bool, device=device)
    if window is not None:
        mask = mask & (i - j < window) & (j - i < window)
    return mask


@dataclass(frozen=True)
class Bundle:
    """Short segments of one parent, or of none, padded to one length L: S x L places, some segments empty.

    `index` [S·L] is the token at each place (a segment's first where it has ended), `ended` [S, L] is true there, `where`
    [n] are the places that hold a token, and `tokens` [n] those tokens. Keys [start, stop) are the parent's. S and L are
    round numbers, as a new shape of a product costs oneDNN more than the product.
    """

    start: int
    stop: int
    index: Tensor
    ended: Tensor
    where: Tensor
    tokens: Tensor

    @staticmethod
    def of(segments: Sequence[Segment], keys: tuple[int, int], device: torch.device) -> "Bundle":
        """The bundle of `segments`, whose parent has `keys`."""
        empty = [Segment(segments[0].start, segments[0].start)] * (-len(segments) % 4)
        starts = torch.tensor([[s.start] for s in (*segments, *empty)], device=device)
        stops = torch.tensor([[s.stop] for s in (*segments, *empty)], device=device)
        longest = max(s.stop - s.start for s in segments)
        places = starts + torch.arange(-(-longest // 8) * 8, device=device)
        ended = places >= stops
        index = torch.where(ended, starts, places).flatten()
        where = (~ended).flatten().nonzero()[:, 0]
        return Bundle(*keys, index, ended, where, index[where])

    def hide(self, scores: Tensor, causal: bool) -> None:
        """Put -inf in place where a query may not see a key: scores [heads, S, L, groups, L]. Queries without a token see some."""
        if causal:  # the places behind a segment's end lie ahead of all its tokens
            length = scores.shape[-1]
            scores.masked_fill_(~allowed(range(length), range(length), True, None, scores.device)[:, None], -math.inf)
        else:
            hidden = self.ended.clone()
            hidden[:, 0] = False  # an empty segment's queries must see something, too
            scores.masked_fill_(hidden[:, None, None, :], -math.inf)


@lru_cache(maxsize=4)
def bundled(
    segments: tuple[Segment, ...], window: int | None, device: torch.device
) -> tuple[tuple[Bundle, ...], tuple[Segment, ...]]:
    """Segments that are computed together, those without a parent first, and the others, in their order.

    In a bundle no segment is shorter than half of the longest, so that padding never costs more than it saves; and one
    has no more than 512 places, which with a parent's keys bounds the scores as a block of queries does.
    """
    plan, families = Plan(segments), dict[tuple[int, int], list[Segment]]()
    for segment in sorted(segments, key=lambda s: s.start - s.stop):
        length = segment.stop - segment.start
        if 0 < length <= SHORT and (window is None or plan.inherited(segment) + length <= window):
            families.setdefault(plan.keys(segment), []).append(segment)
    chosen: list[tuple[tuple[int, int], list[Segment]]] = []
    for keys, members in sorted(families.items()):
        while members:
            longest = members[0].stop - members[0].start
            group = [s for s in members if 2 * (s.stop - s.start) > longest][: max(1, 512 // longest)]
            members = members[len(group) :]
            if len(group) > 1:
                chosen.append((keys, group))
    together = {segment for _, group in chosen for segment in group}
    return (
        tuple(Bundle.of(group, keys, device) for keys, group in chosen),
        tuple(segment for segment in segments if segment not in together),
    )


@dataclass(frozen=True, slots=True)
class Block:
    """Queries [start, stop) of a segment and the keys [first, last) that they see any of, numbered from the parent's first."""

    start: int
    stop: int
    first: int
    last: int
    offset: int  # the number of query `start` among the keys

    def hide(self, scores: Tensor, causal: bool, window: int | None) -> None:
        """Add -inf in place where a query may not see a key: scores [heads, queries, groups, keys]."""
        if window is None:
            if causal:  # only the block's own square has keys that lie ahead
                square = scores[..., self.offset - self.first :]
                square += _triangle(self.stop - self.start, scores.dtype, scores.device)
            return
        height, width = self.stop - self.start, self.last - self.first
        scores += _band(self.offset - self.first, height, width, causal, window, scores.dtype, scores.device)


def blocks(plan: Plan, segment: Segment, causal: bool, window: int | None) -> Iterator[Block]:
    """The segment's queries in blocks, each with no more keys than it can see."""
    inherited = plan.inherited(segment)
    length = segment.stop - segment.start
    size = (
        -(-length // -(-length // QUERY_BLOCK)) if length else 1
    )  # equal ones: a last block of few rows costs most of a call
    for start in range(0, length, size):
        stop = min(start + size, length)
        last = inherited + (stop if causal else length)
        first = 0
        if window is not None:
            first = max(0, inherited + start - window + 1)
            last = min(last, inherited + stop + window - 1)
        yield Block(segment.start + start, segment.start + stop, first, last, inherited + start)


@lru_cache(maxsize=8)
def _largest_triangle(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _hidden(allowed(range(size), range(size), True, None, device), dtype)


def _triangle(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _largest_triangle(QUERY_BLOCK, dtype, device)[:size, :, :size]


@lru_cache(maxsize=32)
def _band(
    offset: int, height: int, width: int, causal: bool, window: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return _hidden(allowed(range(offset, offset + height), range(width), causal, window, device), dtype)


def _hidden(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[rows, 1, columns]: 0 where `mask`, else -inf."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))[:, None]
