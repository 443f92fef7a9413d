"""Which rows make a step: a pure function of (seed, epoch, index), so that a position in training is one integer."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
        return _order(self.rows, self.seed, epoch, self.weights)

    def of_step(self, step: int) -> NDArray[np.int64]:
        """Row numbers of optimiser step `step`, counted from 0 over all epochs."""
        epoch, index = divmod(step, self.per_epoch)
        return self.order(epoch)[index * self.size : (index + 1) * self.size]


@lru_cache(maxsize=2)  # a step must not cost what an epoch does
def _order(rows: int, seed: int, epoch: int, weights: tuple[float, ...]) -> NDArray[np.int64]:
    draw = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    chosen: list[NDArray[np.int64]] = [] if weights else [np.arange(rows)]
    for weight in sorted(set(weights)):
        alike = np.flatnonzero(np.asarray(weights) == weight)
        chosen += [alike] * int(weight)
        chosen.append(draw.permutation(alike)[: round((weight - int(weight)) * len(alike))])
    order = draw.permutation(np.concatenate(chosen))
    order.flags.writeable = False
    return order


def micro_batches(rows: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """`rows` in as few groups of at most `budget` tokens as an even spread takes; a row longer than that stands alone.

    Even, because a last group of few tokens costs nearly as much as a full one: each row goes, the longest first, to the
    group with the fewest tokens.
    """
    order = sorted(range(len(rows)), key=lambda place: -int(lengths[place]))
    alone = [[int(rows[place])] for place in order if int(lengths[place]) > budget]
    order = order[len(alone) :]
    fewest = math.ceil(sum(int(lengths[place]) for place in order) / budget)
    for size in range(max(fewest, 1), len(order) + 1):
        groups: list[list[int]] = [[] for _ in range(size)]
        loads = [0] * size
        for place in order:
            least = loads.index(min(loads))
            groups[least].append(int(rows[place]))
            loads[least] += int(lengths[place])
        if max(loads) <= budget:
            return [*alone, *groups]
    return alone
