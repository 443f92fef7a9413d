"""A corpus score as a function of how often each unit counts, so that resampling never goes back to the texts.

A unit is an example, or a group of examples that share a document. Most scores are a smooth function of sums over
examples (`Summed`): a bootstrap replicate is then one row of a matrix product. Scores of ranks or of sets are not
(`Weighted`): they take the weights themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Interval = Literal["wilson", "bootstrap", "bootstrap-t", "jackknife"]

CHUNK = 2_000_000  # numbers of a weight matrix that are held at once: 16 MB


@dataclass(frozen=True, slots=True)
class About:
    """What a score is: its range, whether more is better (None: neither), which interval fits it, its definition in a line."""

    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool | None = True
    interval: Interval = "bootstrap"
    signature: str = ""


@dataclass(frozen=True)
class Summed:
    """value(sum of rows): `rows` [n, k], `value` maps sums [..., k] to scores [...]. With interval "wilson" the rows are
    (successes, trials), one trial an example; with "bootstrap-t" they are (amount, size), and the value rises with the
    quotient of their sums.
    """

    rows: Array
    value: Callable[[Array], Array]
    about: About = About()

    def __len__(self) -> int:
        return len(self.rows)

    def resampled(self, weights: Array) -> Array:
        """[B]: the score where unit i counts weights[b, i] times; weights [B, n]."""
        return self.value(weights @ self.rows)

    def left_out(self) -> Array:
        """[n]: the score without unit i."""
        return self.value(self.rows.sum(axis=0) - self.rows)

    def each(self) -> Array:
        """[n]: the score of unit i alone."""
        return self.value(self.rows)

    def grouped(self, groups: NDArray[np.intp]) -> "Summed":
        """The same score with groups as units; groups [n] are numbers from 0."""
        sums = np.zeros((int(groups.max()) + 1, self.rows.shape[1]))
        np.add.at(sums, groups, self.rows)
        return replace(self, rows=sums)


@dataclass(frozen=True)
class Weighted:
    """A score of `count` units that is a function of the weights [B, n] themselves: ranks, sets of n-grams."""

    count: int
    of: Callable[[Array], Array]
    about: About = About()

    def __len__(self) -> int:
        return self.count

    def resampled(self, weights: Array) -> Array:
        """[B]: the score where unit i counts weights[b, i] times; weights [B, n]."""
        return self.of(weights)

    def left_out(self) -> Array:
        """[n]: the score without unit i."""
        size = max(1, CHUNK // self.count)
        parts = []
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            weights = np.ones((stop - start, self.count))
            weights[np.arange(stop - start), np.arange(start, stop)] = 0.0
            parts.append(self.of(weights))
        return np.concatenate(parts)

    def each(self) -> Array:
        """[n]: NaN, as one example alone has no such score."""
        return np.full(self.count, np.nan)

    def grouped(self, groups: NDArray[np.intp]) -> "Weighted":
        """The same score with groups as units; groups [n] are numbers from 0."""
        return Weighted(int(groups.max()) + 1, lambda weights: self.of(weights[:, groups]), self.about)


Statistic = Summed | Weighted


def value_of(statistic: Statistic) -> float:
    """The score of all units, each counted once."""
    return float(statistic.resampled(np.ones((1, len(statistic))))[0])


def ratio(top: Array, bottom: Array, empty: float = 0.0) -> Array:
    """top / bottom, and `empty` where the bottom is 0."""
    safe = np.where(bottom == 0, 1.0, bottom)
    return np.where(bottom == 0, empty, top / safe)


def share(hits: Sequence[bool], about: About | None = None) -> Summed:
    """The share of examples for which something holds."""
    return Summed(_with_ones(np.asarray(hits, dtype=np.float64)), quotient, about or About(interval="wilson"))


def mean(values: Sequence[float] | Array, about: About) -> Summed:
    """The mean of one number per example."""
    return Summed(_with_ones(np.asarray(values, dtype=np.float64)), quotient, about)


def quotient(sums: Array) -> Array:
    """First column over second; NaN where the second is 0, as a mean of nothing."""
    return ratio(sums[..., 0], sums[..., 1], empty=np.nan)


def _with_ones(values: Array) -> Array:
    return np.stack((values, np.ones_like(values)), axis=1)
