"""Would more labels help? The score after training on 25, 50 and 100 % of the rows, on the same rows that are scored."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutelage.data.folder import opened
from tutelage.data.prepare import prepare
from tutelage.data.sources import files, read
from tutelage.data.types import At
from tutelage.errors import DataError, Problem
from tutelage.evaluate.files import write_lines
from tutelage.evaluate.scoring import groups_of
from tutelage.metrics import METRICS, Difference, Estimate, Prediction, difference, estimate
from tutelage.models.fetch import fetch
from tutelage.models.ref import parse_ref
from tutelage.recipe import Recipe, SourceSpec
from tutelage.tasks.mixed import Mixed, open_task
from tutelage.tasks.types import Bound
from tutelage.train.material import accepted, opening_of

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


def smaller(recipe: Recipe, share: float, folder: Path) -> tuple[Recipe, int, int]:
    """The recipe on that share of its training rows, how many they are, and of how many. They are among those of every larger
    share; held-out rows stay, and so do the settings of each source and the label names, all of which a small share may not
    have. The rows are written into `folder`.
    """
    prepared = prepare(recipe.data, seed=recipe.seed, accepts=lambda source: accepted(recipe, source))
    places = [row.at for row in prepared.train]
    count = max(1, round(share * len(places)))
    order = np.random.Generator(np.random.Philox(key=[recipe.seed, len(places)])).permutation(len(places))
    kept = {places[i] for i in order[:count]} | {row.at for row in prepared.validation}
    spec = opened(recipe.data, seed=recipe.seed)
    model = fetch(parse_ref(recipe.model), say=lambda text: None).path
    task = open_task(recipe.task, prepared.sources, opening_of(model, recipe, prepared))
    parts = [_part(source, kept, folder / f"rows-{number}.jsonl", task) for number, source in enumerate(spec.train)]
    sources = [part for part in parts if part is not None]
    if not sources:
        raise DataError(
            "the run's training rows are not in files any more", where="data.train", fix="train it from files"
        )
    data = spec.model_copy(update={"train": sources})
    return recipe.model_copy(update={"data": data, "task": task.spec, "samples": []}), count, len(places)


def _part(source: SourceSpec, kept: Collection[At], to: Path, task: Bound) -> SourceSpec | None:
    """The source with those of its rows that stand at one of the places `kept`, in the file `to`; None where it has none. A
    task of its own is as `task`, the whole run's, has bound it."""
    items = (item for file in files(source.path, source.format) for item in read(file, source.format, source.target))
    rows = {item[0]: item[1] for item in items if not isinstance(item, Problem) and item[0] in kept}
    if not rows:
        return None
    to.parent.mkdir(parents=True, exist_ok=True)
    write_lines(to, list(rows.values()))
    own = source.task
    if own is not None and isinstance(task, Mixed):
        file = next(iter(rows)).source
        own = next(member.task.spec for member in task.members if file in member.files)
    return source.model_copy(update={"path": str(to), "target": None, "task": own})


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
