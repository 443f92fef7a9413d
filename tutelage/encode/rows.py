"""Many encoded rows as a few arrays, in memory or mapped from files; a row is a view into them."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from tutelage.data.types import At
from tutelage.encode.types import Encoded

BLOCK = 4096  # rows


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows one behind the other. Row i has tokens [starts[i], starts[i + 1]) and stands at row `rows[i]` of
    `names[sources[i]]`."""

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    roles: NDArray[np.uint8]
    starts: NDArray[np.int64]
    sources: NDArray[np.int32]
    rows: NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a `Rows`, from row `first` on: token i of row j is at `starts[j] + i`."""

    first: int
    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    roles: NDArray[np.uint8]
    starts: NDArray[np.int64]
    cut: NDArray[np.bool_]

    def per_row(self, flags: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of the tokens' flags are set in each row."""
        sums = np.concatenate(([0], np.cumsum(flags)))
        return sums[self.starts[1:]] - sums[self.starts[:-1]]

    def trained_share(self) -> NDArray[np.float64]:
        """The share of each row's tokens that is trained."""
        return self.per_row(self.weights != 0) / np.maximum(np.diff(self.starts), 1)


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Encoded]):
    """The rows `chosen` of `columns`, each cut behind `limit` tokens where it is longer."""

    columns: Columns
    chosen: NDArray[np.int64]
    limit: int

    @classmethod
    def all(cls, columns: Columns) -> "Rows":
        """Every row, whole."""
        lengths = np.diff(columns.starts)
        return cls(columns, np.arange(len(lengths)), int(lengths.max(initial=0)))

    @classmethod
    def of(cls, rows: Iterable[Encoded]) -> "Rows":
        """The rows of any sequence; arrays are copied unless it is one of these already."""
        return rows if isinstance(rows, Rows) else cls.all(pack(rows))

    def choose(self, chosen: NDArray[np.bool_], limit: int) -> "Rows":
        """The rows for which `chosen` is true, cut behind `limit` tokens."""
        return replace(self, chosen=self.chosen[chosen], limit=limit)

    @property
    def full_lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, the limit aside."""
        return self.columns.starts[self.chosen + 1] - self.columns.starts[self.chosen]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.minimum(self.full_lengths, self.limit)

    def at(self, index: int) -> At:
        """Where a row stands."""
        i = int(self.chosen[index])
        return At(self.columns.names[self.columns.sources[i]], int(self.columns.rows[i]))

    def blocks(self) -> Iterator[Block]:
        """All rows in blocks, so that what is computed over all tokens needs little memory."""
        all_, full, lengths = self.columns, self.full_lengths, self.lengths
        for first in range(0, len(self), BLOCK):
            part = slice(first, first + BLOCK)
            chosen, starts = self.chosen[part], np.concatenate(([0], np.cumsum(lengths[part])))
            place = all_.starts[chosen]
            where: slice | NDArray[np.int64] = slice(int(place[0]), int(all_.starts[chosen[-1] + 1]))
            if all_.starts[chosen[-1] + 1] - place[0] != starts[-1]:  # some rows between are left out, or cut
                where = np.repeat(place - starts[:-1], lengths[part]) + np.arange(starts[-1])
            cut = full[part] > lengths[part]
            yield Block(first, all_.ids[where], all_.weights[where], all_.roles[where], starts, cut)

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i, all_ = int(self.chosen[index]), self.columns
        start, end = int(all_.starts[i]), int(all_.starts[i + 1])
        stop = min(end, start + self.limit)
        return Encoded(
            all_.ids[start:stop], all_.weights[start:stop], all_.roles[start:stop], self.at(index), cut=stop < end
        )


def pack(rows: Iterable[Encoded]) -> Columns:
    """Rows as columns. A row's mark of being cut is not kept: columns hold whole rows."""
    rows = list(rows)
    names = tuple(dict.fromkeys(row.at.source for row in rows))
    number = {name: i for i, name in enumerate(names)}
    return Columns(
        ids=_joined([row.ids for row in rows], np.int32),
        weights=_joined([row.weights for row in rows], np.float32),
        roles=_joined([row.roles for row in rows], np.uint8),
        starts=np.array([0, *itertools.accumulate(len(row.ids) for row in rows)], dtype=np.int64),
        sources=np.array([number[row.at.source] for row in rows], dtype=np.int32),
        rows=np.array([row.at.row for row in rows], dtype=np.int64),
        names=names,
    )


def _joined(parts: list[NDArray], dtype: type) -> NDArray:  # type: ignore[type-arg]
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)
