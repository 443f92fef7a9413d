"""Scores against scores: mean squared error, Pearson's and Spearman's correlation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError
from tutelage.metrics.labels import require
from tutelage.metrics.statistics import About, Array, Summed, Weighted, mean, ratio
from tutelage.metrics.types import METRICS, Prediction, Value

CORRELATION = About(low=-1.0)


@METRICS.add("mse")
def mse(predictions: Sequence[Prediction]) -> Summed:
    """Mean squared error."""
    right, given = _numbers(predictions)
    return mean((right - given) ** 2, About(high=np.inf, higher_is_better=False, interval="bootstrap-t"))


@METRICS.add("pearson")
def pearson(predictions: Sequence[Prediction]) -> Summed:
    """Pearson's correlation; NaN where one side does not vary."""
    right, given = _numbers(predictions)
    # Centred, so that large scores lose no digits; a correlation does not see the shift.
    right, given = right - right.mean(), given - given.mean()
    rows = np.stack((np.ones_like(right), right, given, right**2, given**2, right * given), axis=1)
    return Summed(rows, _correlation, CORRELATION)


@METRICS.add("spearman")
def spearman(predictions: Sequence[Prediction]) -> Weighted:
    """Spearman's correlation: Pearson's of the ranks, ties sharing their mean rank; NaN where one side does not vary."""
    right, given = _numbers(predictions)
    one, two = _ties(right), _ties(given)

    def of(weights: Array) -> Array:
        return _weighted_correlation(weights, _ranks(weights, *one), _ranks(weights, *two))

    return Weighted(len(predictions), of, CORRELATION)


def _numbers(predictions: Sequence[Prediction]) -> tuple[Array, Array]:
    require(predictions)
    right = np.array([_number(one, one.reference, "reference") for one in predictions])
    return right, np.array([_number(one, one.output, "output") for one in predictions])


def _number(prediction: Prediction, value: Value, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise DataError(f"the {what} is {value!r}, not a number", where=str(prediction.at), fix="give a finite number")
    return float(value)


def _correlation(sums: Array) -> Array:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    least = 1e-12 * np.maximum(n * xx, 1e-300), 1e-12 * np.maximum(n * yy, 1e-300)
    constant = (spread_x <= least[0]) | (spread_y <= least[1])
    bottom = np.sqrt(np.where(constant, 0.0, spread_x * spread_y))
    return np.clip(ratio(n * xy - x * y, bottom, empty=np.nan), -1.0, 1.0)


def _ties(values: Array) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """The order of rising values, where each distinct value begins in it, and which of them each row has."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    return order, starts, np.unique(values, return_inverse=True)[1]


def _ranks(weights: Array, order: NDArray[np.intp], starts: NDArray[np.intp], place: NDArray[np.intp]) -> Array:
    """[B, n]: the mean rank of each row where row i occurs weights[b, i] times."""
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    return ranks[:, place]


def _weighted_correlation(weights: Array, x: Array, y: Array) -> Array:
    total = weights.sum(axis=1, keepdims=True)
    dx = x - (weights * x).sum(axis=1, keepdims=True) / total
    dy = y - (weights * y).sum(axis=1, keepdims=True) / total
    bottom = np.sqrt((weights * dx**2).sum(axis=1) * (weights * dy**2).sum(axis=1))
    return np.clip(ratio((weights * dx * dy).sum(axis=1), bottom, empty=np.nan), -1.0, 1.0)
