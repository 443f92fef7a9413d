"""A served model that labels, marks, answers or embeds texts, in place of writing some."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tutelage.errors import ModelError, UsageError
from tutelage.evaluate.rows import precision_of
from tutelage.methods.opening import Located
from tutelage.models.load import family_of
from tutelage.models.safety import read_object
from tutelage.serve.classifying import Classifier
from tutelage.serve.embedding import Embedder, open_embedder
from tutelage.serve.extracting import Finder
from tutelage.serve.limits import Limits
from tutelage.serve.marking import Marker
from tutelage.serve.task_engine import TaskEngine
from tutelage.tasks.opening import open_for_task, read_task

Worker = Classifier | Marker | Finder | Embedder
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


TASK_WORKERS: dict[str, Callable[[Any], Worker]] = {"classify": Classifier, "tag": Marker, "extract": Finder}


def task_of(place: Located) -> str | None:
    """The task that a model is served for; None: it writes text."""
    spec = read_task(place.adapter or place.model)
    if spec is not None and spec.kind in TASK_WORKERS:
        return spec.kind
    family = family_of(read_object(place.model / "config.json"))
    if family == "encoder-decoder":
        raise ModelError(
            "a model with encoder and decoder is not served", where=place.name,
            why="the server runs decoders, and encoders for labels and vectors", fix="train the task on a causal model",
        )  # fmt: skip
    return "embed" if family == "encoder" else None


def open_task(
    name: str, place: Located, task: str, *, precision: str, limits: Limits, threads: int | None, say: Say
) -> ServedTask:
    """The located model for its task. `precision` auto: that of the run, in which evaluation scores it too, or fp32."""
    if precision == "auto":
        precision = precision_of(str(place.run)) if place.run is not None else "fp32"
    if place.adapter is not None and place.run is None:
        raise UsageError(
            f"{name} is an adapter alone", where=place.name, why="the task's base model is known to its run",
            fix="name the run folder",
        )  # fmt: skip
    say(f"{name}: {task}, {precision}")
    worker: Worker
    if task == "embed":
        worker = open_embedder(place, precision)
    else:
        worker = TASK_WORKERS[task](open_for_task(str(place.run or place.model), precision=precision, say=say))
    return ServedTask(name, task, worker, TaskEngine(worker.compute, limits, threads), int(time.time()))
