"""What attention must know of a layout, and which keys a block of its queries may see."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.encode.types import Segment

# Rows of queries handled at once: on this many the causal half that is never looked at (a quarter of a 512-token row) is
# worth more than the extra calls cost, and no more than [heads, 256, T] scores are ever held.
QUERY_BLOCK = 256
# Segments of at most so many tokens are put into rows of one length and multiplied together: a product of any size costs
# oneDNN 20 to 100 µs, and one of 16 tokens in 12 heads has 0.2 million operations.
SHORT = 128
ROW = 64  # places of a row that several segments share


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
    """Short segments of one parent, or of none, side by side in rows of one length L: S x L places, each of a token or empty.

    `index` [S·L] is the token at each place (any where there is none), and `empty` [S, L] is true there. Keys [start, stop)
    are the parent's. `hidden` [S, L, 1, L] is 0 where a query may see a key of its row, else -inf; empty places see each
    other. S and L are round numbers, as a new shape of a product costs oneDNN more than the product. `held` [S·L] is `index`
    with -1 where nothing is, and always has values.
    """

    start: int
    stop: int
    index: Tensor
    empty: Tensor
    hidden: Tensor
    held: NDArray[np.int64]

    @staticmethod
    def of(
        rows: Sequence[Sequence[Segment]], length: int, keys: tuple[int, int], causal: bool, dtype: torch.dtype,
        device: torch.device,
    ) -> "Bundle":  # fmt: skip
        """The bundle of segments in `rows` of `length` places, whose parent has `keys`; its scores will be of `dtype`."""
        count = len(rows) if len(rows) < 3 else -(-len(rows) // 4) * 4
        token, owner = placed(rows, count, length)
        owners, index = (torch.from_numpy(values).to(device) for values in (owner, token.reshape(-1)))
        seen = owners[:, :, None] == owners[:, None, :]
        if causal:
            seen &= allowed(range(length), range(length), True, None, device)
        held = np.where(owner < 0, -1, token).reshape(-1)
        return Bundle(*keys, index, owners < 0, _hidden(seen, dtype), held)


def placed(rows: Sequence[Sequence[Segment]], count: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[count, length] each, for segments side by side in rows: the token at a place (any where there is none), and the number
    of its segment in the row, or -1."""
    token, owner = np.full((count, length), rows[0][0].start), np.full((count, length), -1)
    for row, segments in enumerate(rows):
        at = 0
        for number, s in enumerate(segments):
            stop = at + s.stop - s.start
            token[row, at:stop], owner[row, at:stop] = np.arange(s.start, s.stop), number
            at = stop
    return token, owner


def in_rows(segments: Sequence[Segment], length: int, most: int) -> tuple[list[list[Segment]], list[Segment]]:
    """At most so many rows of `length`, each segment in the first that has room for it; and those that none had room for."""
    rows, room, left = list[list[Segment]](), list[int](), list[Segment]()
    for segment in segments:
        size = segment.stop - segment.start
        row = next((i for i, free in enumerate(room) if free >= size), len(rows))
        if row == most:
            left.append(segment)
            continue
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(segment)
        room[row] -= size
    return rows, left


def next_rows(
    members: Sequence[Segment], multiple: int, places: int | None = None
) -> tuple[list[list[Segment]], int, list[Segment]]:
    """Rows of the first of `members`, which come the longest first; how many places a row has; and the other members.

    A row has at least `ROW` places, or what the longest needs, and then only segments of more than half its length, so that
    little is computed that nobody sees. Their number is a `multiple`; all rows together have no more than `places`.
    """
    longest = members[0].stop - members[0].start
    length = -(-max(longest, min(ROW, sum(s.stop - s.start for s in members))) // multiple) * multiple
    like = [s for s in members if length <= ROW or 2 * (s.stop - s.start) > longest]
    rows, left = in_rows(like, length, len(like) if places is None else places // length)
    return rows, length, [*left, *members[len(like) :]]  # the longest first, still


def even_blocks(length: int) -> list[tuple[int, int]]:
    """[start, stop) of no more than `QUERY_BLOCK` queries each; of equal ones, as a last block of few costs most of a call."""
    size = -(-length // -(-length // QUERY_BLOCK)) if length else 1
    return [(start, min(start + size, length)) for start in range(0, length, size)]


@dataclass(frozen=True)
class Bundled:
    """Segments that are computed together, those without a parent first, and the others, in their order.

    What comes of them, side by side in this order, has token t at `places[t]`; None: at t.
    """

    together: tuple[Bundle, ...]
    apart: tuple[Segment, ...]
    places: Tensor | None

    def in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """[heads, places, ...] of each bundle and segment → [heads, N, ...]. A gather: to scatter them takes 4 times as long."""
        whole = parts[0] if len(parts) == 1 else torch.cat(tuple(parts), 1)
        return whole if self.places is None else whole.index_select(1, self.places)


@lru_cache(maxsize=4)
def bundled(
    segments: tuple[Segment, ...], causal: bool, window: int | None, dtype: torch.dtype, device: torch.device
) -> Bundled:
    """The segments of a layout, some of them together. Scores will be of `dtype`.

    A bundle has no more than 512 places, which with a parent's keys bounds the scores as a block of queries does.
    """
    plan, families = Plan(segments), dict[tuple[int, int], list[Segment]]()
    for segment in sorted(segments, key=lambda s: s.start - s.stop):
        length = segment.stop - segment.start
        if 0 < length <= SHORT and (window is None or plan.inherited(segment) + length <= window):
            families.setdefault(plan.keys(segment), []).append(segment)
    bundles, together = list[Bundle](), set[Segment]()
    for keys, members in sorted(families.items()):
        while len(members) > 1:
            rows, length, members = next_rows(members, 8, 512)
            if sum(map(len, rows)) > 1:
                bundles.append(Bundle.of(rows, length, keys, causal, dtype, device))
                together.update(*rows)
    apart = tuple(segment for segment in segments if segment not in together)
    return Bundled(tuple(bundles), apart, _places(bundles, apart).to(device) if bundles else None)


def _places(bundles: Sequence[Bundle], apart: Sequence[Segment]) -> Tensor:
    """[N]: where each token stands in the bundles and segments side by side."""
    held = np.concatenate([*(b.held for b in bundles), *(np.arange(s.start, s.stop) for s in apart)])
    where = np.flatnonzero(held >= 0)
    return torch.from_numpy(where[np.argsort(held[where])])


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
    for start, stop in even_blocks(length):
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


def unseen(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `mask`, else -inf: what is added to scores."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def _hidden(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., rows, 1, columns]: the same for the query heads of one key head."""
    return unseen(mask, dtype).unsqueeze(-2)
