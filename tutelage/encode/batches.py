"""Which rows make a step: a pure function of (seed, epoch, index), so that a position in training is one integer."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batches:
    """`rows` examples, `size` of them per optimiser step, in an order that (seed, epoch) decides.

    With `weights`, one per row, a row of weight 2 comes twice in an epoch, and of rows of weight 0.5 every second one,
    others in each epoch.
    """

    rows: int
    size: int
    seed: int
    weights: tuple[float, ...] = ()

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch; the last one may be smaller."""
        return math.ceil(self.examples / self.size)

    @property
    def examples(self) -> int:
        """Examples in an epoch, repeats counted."""
        counts = Counter(self.weights)
        return sum(int(w) * n + round((w - int(w)) * n) for w, n in counts.items()) if counts else self.rows

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The permutation of epoch `epoch`, by a counter-based generator (Philox) keyed with seed and epoch."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        if not self.weights:
            return draw.permutation(self.rows)
        chosen = []
        for weight in sorted(set(self.weights)):
            alike = np.flatnonzero(np.asarray(self.weights) == weight)
            chosen += [alike] * int(weight)
            chosen.append(draw.permutation(alike)[: round((weight - int(weight)) * len(alike))])
        return draw.permutation(np.concatenate(chosen))

    def of_step(self, step: int) -> NDArray[np.int64]:
        """Row numbers of optimiser step `step`, counted from 0 over all epochs."""
        epoch, index = divmod(step, self.per_epoch)
        return self.order(epoch)[index * self.size : (index + 1) * self.size]


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
