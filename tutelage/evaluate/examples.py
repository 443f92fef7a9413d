"""Rows worth reading: the worst ones, and those that two systems answer differently, each with its file and row."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tutelage.metrics import METRICS, Prediction

MOST = 10


def worst(predictions: Sequence[Prediction], metric: str, most: int = MOST) -> list[dict[str, Any]]:
    """The rows with the worst score of their own; equally bad ones in the order of the file. Right ones are left out."""
    statistic = METRICS.get(metric)(predictions)
    each, about = statistic.each(), statistic.about
    loss = -each if about.higher_is_better else each
    best = -about.high if about.higher_is_better else about.low
    order = [int(i) for i in np.argsort(-loss, kind="stable") if np.isfinite(loss[i]) and loss[i] > best + 1e-9]
    return [{**shown(predictions[i]), "score": float(each[i])} for i in order[:most]]


def changed(
    first: Sequence[Prediction], second: Sequence[Prediction], metric: str, most: int = MOST
) -> list[dict[str, Any]]:
    """The rows whose output differs, those whose score changed most first: as many better as worse ones, if there are."""
    before, after = METRICS.get(metric)(first), METRICS.get(metric)(second)
    sign = 1.0 if after.about.higher_is_better else -1.0
    one, two = before.each(), after.each()
    gain = np.nan_to_num(sign * (two - one))
    different = [i for i in range(len(second)) if first[i].output != second[i].output]
    better = sorted((i for i in different if gain[i] > 0), key=lambda i: -gain[i])
    worse = sorted((i for i in different if gain[i] < 0), key=lambda i: gain[i])
    rest = [i for i in different if gain[i] == 0]
    half = most // 2
    chosen = better[: max(half, most - len(worse))] + worse[: max(half, most - len(better))]
    chosen += rest[: max(0, most - len(chosen))]
    return [
        {**shown(second[i]), "before": first[i].output, "score_before": _plain(one[i]), "score": _plain(two[i])}
        for i in chosen
    ]


def shown(prediction: Prediction) -> dict[str, Any]:
    """A prediction for a reader."""
    return {
        "file": prediction.at.source, "row": prediction.at.row, "input": prediction.input,
        "reference": prediction.reference, "output": prediction.output,
        **({"context": prediction.context} if prediction.context else {}),
    }  # fmt: skip


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
