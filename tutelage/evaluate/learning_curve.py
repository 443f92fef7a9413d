"""Would more labels help? The score after training on 25, 50 and 100 % of the rows, on the same rows that are scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.data.prepare import prepare
from tutelage.data.sources import files, read
from tutelage.errors import DataError, Problem
from tutelage.evaluate.scoring import groups_of
from tutelage.metrics import METRICS, Difference, Estimate, Prediction, difference, estimate
from tutelage.recipe import Recipe
from tutelage.train.material import accepted

SHARES = (0.25, 0.5)  # the whole is the run itself


@dataclass(frozen=True)
class Point:
    """The score after training on `rows` rows."""

    share: float
    rows: int
    score: Estimate


@dataclass(frozen=True)
class LearningCurve:
    """Points by rising share, and the last doubling of the rows as a paired difference."""

    metric: str
    points: list[Point]
    last_doubling: Difference
    sentence: str


def smaller(recipe: Recipe, share: float) -> tuple[Recipe, int]:
    """The recipe on that share of its training rows, which are among those of every larger share; held-out rows stay."""
    prepared = prepare(recipe.data, seed=recipe.seed, accepts=lambda source: accepted(recipe, source))
    places = [row.at for row in prepared.train]
    count = max(1, round(share * len(places)))
    order = np.random.Generator(np.random.Philox(key=[recipe.seed, len(places)])).permutation(len(places))
    kept = {places[i] for i in order[:count]} | {row.at for row in prepared.validation}
    rows: list[dict[str, Any]] = []
    for source in recipe.data.train:
        for file in files(source.path):
            rows += [item[1] for item in read(file) if not isinstance(item, Problem) and item[0] in kept]
    if not rows:
        raise DataError(
            "the run's training rows are not in files any more", where="data.train", fix="train it from files"
        )
    values = recipe.model_dump(by_alias=True)
    data = {**values["data"], "train": rows}
    return Recipe.model_validate({**values, "data": data, "samples": []}), count


def curve(metric: str, runs: Sequence[tuple[float, int, Sequence[Prediction]]], *, seed: int = 0) -> LearningCurve:
    """The curve through runs as (share, training rows, predictions on the same rows), the whole last."""
    statistics = [METRICS.get(metric)(predictions) for _, _, predictions in runs]
    groups = groups_of(runs[-1][2])
    points = [
        Point(share, rows, estimate(statistic, groups, seed=seed))
        for (share, rows, _), statistic in zip(runs, statistics)
    ]
    gain = difference(statistics[-2], statistics[-1], groups)
    words = {
        "better": "doubling the labels helped, so more are likely to help",
        "worse": "doubling the labels made it worse: look for wrong labels among them",
        "different": "doubling the labels changed it",
        "cannot tell": f"with n = {gain.n} scored rows it cannot be told whether doubling the labels helped",
    }
    return LearningCurve(metric, points, gain, words[gain.verdict])
