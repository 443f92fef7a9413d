"""Area under the ROC curve: how often a row of a class has a higher score for it than a row of another (ties count half)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError
from tutelage.metrics.labels import Labelled, labelled
from tutelage.metrics.statistics import About, Array, Weighted, ratio
from tutelage.metrics.types import METRICS, Prediction


@METRICS.add("roc_auc")
def roc_auc(predictions: Sequence[Prediction]) -> Weighted:
    """The mean over classes of one class against the rest; with two classes this is the binary ROC-AUC.

    Classes that are always or never the reference have no curve and are left out; without any the value is NaN.
    """
    found = labelled(predictions)
    names = [name for name in found.names if 0 < found.right[:, found.names.index(name)].sum() < len(predictions)]
    scores = score_matrix(predictions, names)
    right = class_columns(found, names)
    orders = [_ordered(scores[:, index]) for index in range(len(names))]

    def of(weights: Array) -> Array:
        areas = [_area(weights, right[:, i], *order) for i, order in enumerate(orders)]
        table = np.stack(areas) if areas else np.full((1, len(weights)), np.nan)
        known = np.isfinite(table)
        return ratio(np.where(known, table, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64), empty=np.nan)

    return Weighted(len(predictions), of, About(signature="average:macro|multiclass:one-vs-rest"))


def score_matrix(predictions: Sequence[Prediction], names: Sequence[str]) -> Array:
    """[n, C]: the score of each class in each row; a sentence where a row has none."""
    for one in predictions:
        missing = [name for name in names if name not in one.scores]
        if missing:
            raise DataError(
                f"this prediction has no score for the label `{missing[0]}`", where=str(one.at),
                fix="score it with a task that gives probabilities (classify), or leave this metric out",
            )  # fmt: skip
    return np.array([[one.scores[name] for name in names] for one in predictions]).reshape(len(predictions), len(names))


def class_columns(found: Labelled, names: Sequence[str]) -> Array:
    """[n, len(names)]: 1 where a row has the class."""
    return found.right[:, [found.names.index(name) for name in names]].astype(np.float64)


def _ordered(scores: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order of rising scores, and where in it each distinct score begins."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    return order, np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))


def _area(weights: Array, right: Array, order: NDArray[np.intp], starts: NDArray[np.intp]) -> Array:
    """[B]: the area for weights [B, n]; NaN where a resample lacks one side."""
    ranked = weights[:, order]
    positive = np.add.reduceat(ranked * right[order], starts, axis=1)
    negative = np.add.reduceat(ranked * (1 - right[order]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1), empty=np.nan)
