"""Precision, recall and F1 over classes: micro, macro, weighted, and per class (scikit-learn's definitions).

A quotient without denominator is 0. The macro and the weighted mean are over the classes that occur as a reference or
as an output; in a resample, those that occur in it.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from tutelage.metrics.labels import Labelled, labelled
from tutelage.metrics.statistics import About, Array, Summed, ratio
from tutelage.metrics.types import METRICS, Prediction

Kind = Literal["precision", "recall", "f1"]
Average = Literal["micro", "macro", "weighted"]
KINDS: tuple[Kind, ...] = ("precision", "recall", "f1")
AVERAGES: tuple[Average, ...] = ("micro", "macro", "weighted")


def counts(found: Labelled) -> Array:
    """[n, 3C]: per row and class, whether it is right, wrongly given, missed; C columns each."""
    right, given = found.right, found.given
    return np.concatenate((right & given, given & ~right, right & ~given), axis=1).astype(np.float64)


def quality(kind: Kind, hits: Array, wrong: Array, missed: Array) -> Array:
    """Precision, recall or F1 from true positives, false positives and false negatives."""
    bottom = {"precision": hits + wrong, "recall": hits + missed, "f1": hits + (wrong + missed) / 2}[kind]
    return ratio(hits, bottom)


def averaged(kind: Kind, average: Average, sums: Array) -> Array:
    """The score from sums [..., 3C] of `counts`."""
    hits, wrong, missed = np.split(sums, 3, axis=-1)
    if average == "micro":
        return quality(kind, hits.sum(axis=-1), wrong.sum(axis=-1), missed.sum(axis=-1))
    each = quality(kind, hits, wrong, missed)
    weights = hits + missed if average == "weighted" else (hits + wrong + missed > 0).astype(np.float64)
    return ratio((each * weights).sum(axis=-1), weights.sum(axis=-1))


def score(predictions: Sequence[Prediction], kind: Kind, average: Average) -> Summed:
    """Precision, recall or F1 of the labels, averaged over classes."""
    return Summed(counts(labelled(predictions)), lambda sums: averaged(kind, average, sums))


def per_class(predictions: Sequence[Prediction]) -> dict[str, dict[Kind, Summed]]:
    """Precision, recall and F1 of each class; the first two are shares, with Wilson's interval."""
    found = labelled(predictions)
    rows = counts(found)
    size = len(found.names)
    return {
        name: {kind: of_class(kind, rows[:, [index, index + size, index + 2 * size]]) for kind in KINDS}
        for index, name in enumerate(found.names)
    }


def of_class(kind: Kind, rows: Array) -> Summed:
    """One class's score from rows [n, 3] of true positives, false positives and false negatives."""
    if kind == "f1":
        return Summed(rows, lambda sums: quality("f1", sums[..., 0], sums[..., 1], sums[..., 2]))
    trials = rows[:, 0] + rows[:, 1 if kind == "precision" else 2]
    pairs = np.stack((rows[:, 0], trials), axis=1)
    return Summed(pairs, lambda sums: ratio(sums[..., 0], sums[..., 1]), About(interval="wilson"))


def _registered(kind: Kind, average: Average) -> Callable[[Sequence[Prediction]], Summed]:
    return lambda predictions: score(predictions, kind, average)


for _kind in KINDS:
    for _average in AVERAGES:
        METRICS.add(f"{_kind}_{_average}")(_registered(_kind, _average))
