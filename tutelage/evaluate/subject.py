"""One system on the rows: opened, asked, probed, scored and closed again, so that only one model is in memory."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.types import At, Conversation
from tutelage.encode.template import Template
from tutelage.errors import UsageError
from tutelage.evaluate.files import write_predictions
from tutelage.evaluate.forgetting import Probed, probe
from tutelage.evaluate.label_next import (
    MISSING,
    Uncertain,
    as_labelled,
    as_questions,
    as_rows,
    as_tagged,
    label_next,
    uncertainty,
    unlabelled,
    unsure_of_tags,
)
from tutelage.evaluate.probing import Probe
from tutelage.evaluate.rows import Rows, with_columns
from tutelage.evaluate.scoring import metrics_for, score
from tutelage.evaluate.types import Scores
from tutelage.evaluate.writers import CausalWriter, writer_of
from tutelage.generate.decode import context_limit
from tutelage.methods.opening import open_model
from tutelage.metrics import Prediction
from tutelage.tasks import chat
from tutelage.tasks.chat_answers import longer_than, predict
from tutelage.tasks.extract import Extractor
from tutelage.tasks.opening import OpenedTask, open_for_task
from tutelage.tasks.tag import Tagger
from tutelage.taskspec import ChatSpec, ClassifySpec, TaskSpec

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """How every system is asked, the same for all of them."""

    spec: TaskSpec
    folder: Path
    precision: str = "fp32"  # never "auto": what the machine measures while it is busy must not change a score
    max_tokens: int = 256
    seed: int = 0
    metrics: tuple[str, ...] = ()
    group: str | None = None
    probes: Mapping[str, Sequence[Probe]] | None = None

    @property
    def task(self) -> str:
        """The task's name."""
        return self.spec.kind


@dataclass(frozen=True)
class Scored:
    """One system's predictions and scores; `too_long` are the places of rows that its context cannot hold."""

    name: str
    predictions: list[Prediction]
    scores: Scores
    probed: Probed | None
    too_long: tuple[str, ...] = ()


Evaluate = Callable[[str, bool, str, Rows, Asked, Probed | None, Say], Scored]


def score_chat(
    model: str, untouched: bool, label: str, rows: Rows, asked: Asked, base: Probed | None, say: Say
) -> Scored:
    """A causal model on chat rows; with `untouched` the model that a run started from. `base` are the base model's probes."""
    assert isinstance(asked.spec, ChatSpec)
    opened = open_model(model, base=untouched, precision=asked.precision, say=say)
    name = "untouched model" if untouched else opened.name
    fitting, too_long = _that_fit(opened.model, opened.template, asked.spec, chat.conversations(rows.rows))
    say(f"{label}: {len(fitting)} rows, greedy answers of at most {asked.max_tokens} tokens")
    found = predict(
        opened.model, opened.template, asked.spec, fitting, max_tokens=asked.max_tokens, seed=asked.seed,
        done=lambda count: say(f"{label}: {count} of {len(fitting)} rows answered"),
    )  # fmt: skip
    predictions = with_columns(found, rows, asked.group)
    probed = None
    if asked.probes:
        say(f"{label}: probes of general text, knowledge, common sense and instructions")
        probed = probe(CausalWriter(opened.model, opened.template), asked.probes, base=base, seed=asked.seed)
    return _finished(name, label, predictions, asked, probed, too_long)


def score_task(
    model: str, untouched: bool, label: str, rows: Rows, asked: Asked, base: Probed | None, say: Say
) -> Scored:
    """A model on the rows of any other task, by the task's own `predict`. Probes need a model that writes."""
    opened = open_for_task(
        model, base=untouched, task=asked.spec, rows=rows.training_rows, others=rows.rows,
        precision=asked.precision, say=say,
    )  # fmt: skip
    name = "untouched model" if untouched else opened.name
    say(f"{label}: {len(rows.rows)} rows")
    predictions = with_columns(opened.predict(rows.rows), rows, asked.group)
    scored = {one.at for one in predictions}
    probed = None
    writer = writer_of(opened.task, opened.backbone, opened.plan)
    if asked.probes and writer is not None:
        say(f"{label}: probes of general text, knowledge, common sense and instructions")
        probed = probe(writer, asked.probes, base=base, seed=asked.seed)
    missing = tuple(str(row.at) for row in rows.rows if row.at not in scored)
    return _finished(name, label, predictions, asked, probed, missing)


EVALUATED: dict[str, Evaluate] = {"chat": score_chat}  # the other tasks predict for themselves


def score_model(
    model: str, untouched: bool, label: str, rows: Rows, asked: Asked, base: Probed | None, say: Say
) -> Scored:
    """One model or run, scored; with `untouched` what a run started from. `base` are the base model's probes."""
    found = EVALUATED.get(asked.task, score_task)(model, untouched, label, rows, asked, base, say)
    gc.collect()  # a model is full of cycles, and the next one needs its memory
    return found


def least_sure(model: str, data: str, asked: Asked, rows: Rows) -> list[dict[str, Any]]:
    """The unlabelled rows of `data` by how unsure the model is of their labels."""
    if asked.task not in MISSING or getattr(asked.spec, "num_labels", None):
        raise UsageError(
            f"rows to label next are not found for the task {asked.task}" + (" with scores" if asked.task == "classify" else ""),
            where="label_next",
            why="they are ordered by the probabilities of their labels", fix=f"--task {', or --task '.join(MISSING)}",
        )  # fmt: skip
    opened = open_for_task(model, task=asked.spec, rows=rows.training_rows, precision=asked.precision)
    found = unlabelled(data, asked.task)
    return as_rows(label_next(_uncertain(opened, found)), found)


def _uncertain(opened: OpenedTask, rows: Mapping[At, Mapping[str, object]]) -> list[Uncertain]:
    if isinstance(opened.task, Tagger):
        tagged = as_tagged(rows)
        marked = zip(tagged, opened.task.tag(opened.backbone, tagged, opened.plan))
        return [
            Uncertain(Prediction(row.at, " ".join(row.words), (), tags.names), unsure_of_tags(tags.chances))
            for row, tags in marked
        ]
    if isinstance(opened.task, Extractor):
        asked = as_questions(rows)
        answers = opened.task.answer(opened.backbone, asked, opened.plan, may_be_none=bool(opened.task.spec.no_answer))
        return [
            Uncertain(Prediction(row.at, "\n".join(row.asked()), (), row.context[one.start : one.stop]), 1 - one.chance)
            for row, one in zip(asked, answers)
            if one.tokens  # else the question leaves no room for its context
        ]
    known = opened.task.spec
    assert isinstance(known, ClassifySpec)
    placeholder = () if known.multi_label else tuple((known.labels or [])[:1])
    return [Uncertain(one, uncertainty(one)) for one in opened.predict(as_labelled(rows, placeholder))]


def _finished(
    name: str, label: str, predictions: list[Prediction], asked: Asked, probed: Probed | None, missing: tuple[str, ...]
) -> Scored:
    file = write_predictions(asked.folder / f"{label}.jsonl", predictions)
    names = metrics_for(asked.task, predictions, asked.metrics)
    return Scored(name, predictions, score(name, predictions, names, seed=asked.seed, file=file), probed, missing)


def _that_fit(
    model: Any, template: Template, spec: ChatSpec, rows: Sequence[Conversation]
) -> tuple[list[Conversation], tuple[str, ...]]:
    """The rows whose tokens the model's context holds, and the places of the others."""
    limit = context_limit(model)
    long = longer_than(None if limit is None else limit - 1, template, spec, rows)
    return [row for row in rows if row.at not in long], tuple(str(at) for at in sorted(long))
