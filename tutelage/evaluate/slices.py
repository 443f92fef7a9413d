"""Scores of parts of the rows: by the length of the input, or by any column."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.evaluate.rows import LENGTH
from tutelage.evaluate.scoring import groups_of, statistics_of
from tutelage.metrics import Difference, Estimate, Prediction, difference, estimate

PARTS, MOST_VALUES = 4, 10
OTHER = "(other values)"


@dataclass(frozen=True)
class Slice:
    """The rows with one value of `by`, and their score."""

    by: str
    value: str
    score: Estimate


@dataclass(frozen=True)
class SliceDifference:
    """The rows with one value of `by`, and how much better the second of two systems does on them."""

    by: str
    value: str
    difference: Difference


def slices(predictions: Sequence[Prediction], by: str, metric: str, *, seed: int = 0) -> list[Slice]:
    """The metric on each part: quarters by words of the input, or the ten most frequent values of a column and the rest."""
    found = []
    for value, places in _parts(predictions, by):
        rows = [predictions[i] for i in places]
        statistics, _ = statistics_of(rows, [metric])
        if metric in statistics:
            found.append(Slice(by, value, estimate(statistics[metric], groups_of(rows), seed=seed)))
    return found


def slice_differences(
    first: Sequence[Prediction], second: Sequence[Prediction], by: str, metric: str
) -> list[SliceDifference]:
    """`second` against `first`, predictions of the same rows in the same order, on each part."""
    found = []
    for value, places in _parts(second, by):
        before, after = ([side[i] for i in places] for side in (first, second))
        (one, _), (two, _) = statistics_of(before, [metric]), statistics_of(after, [metric])
        if metric in one and metric in two:
            gain = difference(one[metric], two[metric], groups_of(after))
            found.append(SliceDifference(by, value, gain))
    return found


def _parts(predictions: Sequence[Prediction], by: str) -> Iterator[tuple[str, list[int]]]:
    """Each value of `by` and the places of its rows."""
    names = _by_length(predictions) if by == LENGTH else _by_column(predictions, by)
    for value in dict.fromkeys(sorted(names, key=_natural)):
        yield value, [i for i, name in enumerate(names) if name == value]


def _by_length(predictions: Sequence[Prediction]) -> list[str]:
    words = np.array([len(one.input.split()) for one in predictions])
    edges = np.unique(np.quantile(words, np.linspace(0, 1, PARTS + 1)).astype(int))
    if len(edges) < 2:
        return [f"{words[0]} words"] * len(words)
    places = np.clip(np.searchsorted(edges, words, side="right") - 1, 0, len(edges) - 2)
    last = len(edges) - 2
    return [_span(int(edges[p]), int(edges[p + 1]) - (p != last)) for p in places]


def _span(first: int, last: int) -> str:
    return f"{first} words" if first == last else f"{first} to {last} words"


def _by_column(predictions: Sequence[Prediction], by: str) -> list[str]:
    values = [one.columns.get(by, "") for one in predictions]
    kept = {value for value, _ in Counter(values).most_common(MOST_VALUES)}
    return [value if value in kept else OTHER for value in values]


def _natural(name: str) -> tuple[bool, float, str]:
    head = name.split(" ", 1)[0]
    return name == OTHER, float(head) if head.isdigit() else float("inf"), name
