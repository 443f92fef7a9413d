"""Which rows make a step: a pure function of (seed, epoch, index), so that a position in training is one integer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batches:
    """`rows` examples, `size` of them per optimiser step, in an order that (seed, epoch) decides."""

    rows: int
    size: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch; the last one may be smaller."""
        return math.ceil(self.rows / self.size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The permutation of epoch `epoch`, by a counter-based generator (Philox) keyed with seed and epoch."""
        return _order(self.rows, self.seed, epoch)

    def of_step(self, step: int) -> NDArray[np.int64]:
        """Row numbers of optimiser step `step`, counted from 0 over all epochs."""
        epoch, index = divmod(step, self.per_epoch)
        return self.order(epoch)[index * self.size : (index + 1) * self.size]


@lru_cache(maxsize=2)  # a step must not cost what an epoch does
def _order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)
    order.flags.writeable = False
    return order


def micro_batches(rows: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """`rows` in groups of at most `budget` tokens (first fit, longest first); a longer row stands alone."""
    groups: list[list[int]] = []
    room: list[int] = []
    for _, place in sorted((-int(length), place) for place, length in enumerate(lengths)):
        length = int(lengths[place])
        fitting = next((g for g, free in enumerate(room) if free >= length), None)
        if fitting is None:
            groups.append([])
            room.append(budget)
            fitting = len(groups) - 1
        groups[fitting].append(int(rows[place]))
        room[fitting] -= length
    return groups
