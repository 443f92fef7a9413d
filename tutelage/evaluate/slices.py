"""Scores of parts of the rows: by the length of the input, or by any column."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.errors import DataError
from tutelage.evaluate.scoring import groups_of, statistics_of
from tutelage.metrics import Estimate, Prediction, estimate
from tutelage.registry import suggestion

LENGTH = "length"
PARTS, MOST_VALUES = 4, 10
OTHER = "(other values)"


@dataclass(frozen=True)
class Slice:
    """The rows with one value of `by`, and their score."""

    by: str
    value: str
    score: Estimate


def slices(predictions: Sequence[Prediction], by: str, metric: str, *, seed: int = 0) -> list[Slice]:
    """The metric on each part: quarters by words of the input, or the ten most frequent values of a column and the rest."""
    names = _by_length(predictions) if by == LENGTH else _by_column(predictions, by)
    found = []
    for value in dict.fromkeys(sorted(names, key=_natural)):
        rows = [one for one, name in zip(predictions, names) if name == value]
        statistics, _ = statistics_of(rows, [metric])
        if metric in statistics:
            found.append(Slice(by, value, estimate(statistics[metric], groups_of(rows), seed=seed)))
    return found


def _by_length(predictions: Sequence[Prediction]) -> list[str]:
    words = np.array([len(one.input.split()) for one in predictions])
    edges = np.unique(np.quantile(words, np.linspace(0, 1, PARTS + 1)).astype(int))
    if len(edges) < 2:
        return [f"{words[0]} words"] * len(words)
    places = np.clip(np.searchsorted(edges, words, side="right") - 1, 0, len(edges) - 2)
    last = len(edges) - 2
    return [f"{edges[p]} to {edges[p + 1] - (p != last)} words" for p in places]


def _by_column(predictions: Sequence[Prediction], by: str) -> list[str]:
    known = sorted({name for one in predictions for name in one.columns})
    if by not in known:
        why = f"the rows have {', '.join(known[:20])}" if known else "the rows have no further columns"
        raise DataError(f"no row has a column `{by}`", where="slice", why=why, fix=suggestion(by, [LENGTH, *known]))
    values = [one.columns.get(by, "") for one in predictions]
    kept = {value for value, _ in Counter(values).most_common(MOST_VALUES)}
    return [value if value in kept else OTHER for value in values]


def _natural(name: str) -> tuple[bool, float, str]:
    head = name.split(" ", 1)[0]
    return name == OTHER, float(head) if head.isdigit() else float("inf"), name
