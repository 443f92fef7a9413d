"""A served model that labels, marks, answers, rewrites or embeds texts, in place of going on with them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tutelage.errors import UsageError
from tutelage.evaluate.rows import precision_of
from tutelage.methods.opening import Located
from tutelage.models.load import family_of
from tutelage.models.safety import read_object
from tutelage.serve.classifying import Classifier
from tutelage.serve.embedding import Embedder, open_embedder
from tutelage.serve.extracting import Finder
from tutelage.serve.limits import Limits
from tutelage.serve.marking import Marker
from tutelage.serve.rewriting import Rewriter
from tutelage.serve.task_engine import TaskEngine
from tutelage.tasks.opening import open_for_task, read_task
from tutelage.taskspec import LABELLING, Seq2SeqSpec

Worker = Classifier | Marker | Finder | Rewriter | Embedder
Say = Callable[[str], None]


@dataclass(frozen=True)
class ServedTask:
    """One name that clients may ask for."""

    name: str
    task: str
    worker: Worker
    engine: TaskEngine
    created: int
    base: str | None = None

    @property
    def about(self) -> str:
        """What it does, as a part of a sentence."""
        return self.worker.about

    @property
    def routes(self) -> tuple[str, ...]:
        """Where it is asked."""
        return (self.worker.route,)

    @property
    def context(self) -> int | None:
        """The most tokens that it reads at once."""
        return self.worker.context

    @property
    def labels(self) -> list[str]:
        """What it can say of a text, where that is a list."""
        return self.worker.labels


TASK_WORKERS: dict[str, Callable[[Any], Worker]] = {
    "classify": Classifier, "tag": Marker, "extract": Finder, "seq2seq": Rewriter,
}  # fmt: skip


def task_of(place: Located) -> str | None:
    """The task that a model is served for, a run's also where its untouched model is meant; None: it goes on with texts."""
    spec = read_task(place.run / "model" if place.run is not None else place.adapter or place.model)
    if spec is not None and spec.kind in LABELLING:
        return spec.kind
    family = family_of(read_object(place.model / "config.json"))
    return {"encoder": "embed", "encoder-decoder": "seq2seq"}.get(family)


def open_task(
    name: str, place: Located, task: str, *, precision: str, limits: Limits, threads: int | None, say: Say
) -> ServedTask:
    """The located model for its task. `precision` auto: that of the run, in which evaluation scores it too, or fp32."""
    worker = open_worker(name, place, task, precision, say)
    return ServedTask(name, task, worker, TaskEngine(worker.compute, limits, threads), int(time.time()))


def open_worker(name: str, place: Located, task: str, precision: str, say: Say, *, base: bool = False) -> Worker:
    """What does the task (`base`: the untouched model)."""
    if precision == "auto":
        precision = precision_of(str(place.run)) if place.run is not None else "fp32"
    if place.adapter is not None and place.run is None:
        raise UsageError(
            f"{name} is an adapter alone", where=place.name, why="the task's base model is known to its run",
            fix="name the run folder",
        )  # fmt: skip
    say(f"{name}: {task}, {precision}")
    if task == "embed":
        return open_embedder(place, precision)
    untold = Seq2SeqSpec() if task == "seq2seq" else None  # for an untouched model, which says no task
    opened = open_for_task(str(place.run or place.model), base=base, task=untold, precision=precision, say=say)
    return TASK_WORKERS[task](opened)
