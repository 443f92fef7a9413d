"""The server's own parity gate: a run's held-out prompts through the streams' engine, held to the model that was trained.

The trained model goes first, through transformers with its adapter as training saw it, and what it computes is written down:
so both are never in memory together. A run that has passed is not asked again until it, or tutelage, is another.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage import __version__
from tutelage.encode.template import Template
from tutelage.errors import OutputError, TutelageError
from tutelage.export.artifact import stamp
from tutelage.export.folder_replica import FolderReplica
from tutelage.export.parity import Case, enforce, make_cases, measure
from tutelage.export.prompts import hard_texts, held_out
from tutelage.export.types import Bounds, Source
from tutelage.generate.runner import Chunk, Runner
from tutelage.methods.opening import Located, load_located
from tutelage.runs import read_json, write_json
from tutelage.serve.engine import Engine
from tutelage.serve.served import Say, Served

PROMPTS, TOKENS, TEXTS = 6, 24, 500  # SmolLM2-135M on two cores: some 10 s, once
# Two computations in bf16 differ where two tokens are nearly equally likely, so only the loss is held to something there.
BOUNDS = {
    torch.float32: Bounds(logit_difference=1e-4, agreement=1.0, loss=1e-4),
    torch.bfloat16: Bounds(loss=0.02),
}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
FIX = "nothing is served; --precision fp32 is exact, `tutelage export RUN --to merged` makes a model of its own"

Question = tuple[tuple[int, ...], int]  # the arguments of Replica.logits


class Written(FolderReplica):
    """A model of which only its answers are left."""

    def __init__(self, template: Template, runner: str, answers: Mapping[Question, Tensor]) -> None:
        self.template, self.runner, self.answers = template, runner, answers

    def logits(self, ids: Sequence[int], start: int) -> Tensor:
        return self.answers[tuple(ids), start]


def as_streams(runner: Runner, adapter: str | None, questions: Sequence[Question]) -> dict[Question, Tensor]:
    """The answers to all questions as so many streams get them: each prompt in one piece, then a token a step, side by side."""
    states = {question: runner.begin(None, 0) for question in questions}
    left = {(ids, start): [ids[: start + 1], *([token] for token in ids[start + 1 :])] for ids, start in states}
    rows: dict[Question, list[Tensor]] = {question: [] for question in states}
    while going := [question for question, pieces in left.items() if pieces]:
        logits = runner.forward([Chunk(states[question], left[question].pop(0), adapter) for question in going])
        for question, row in zip(going, logits):
            rows[question].append(row)
    for state in states.values():
        state.drop()
    return {question: torch.stack(found) for question, found in rows.items()}


@dataclass(frozen=True)
class Expected:
    """What the trained model computes, and for which cases."""

    source: Source  # without the model
    cases: list[Case]
    held_out: bool
    questions: list[Question]
    trained: Written


def unproven(places: Mapping[str, Located], dtype: torch.dtype) -> dict[str, Located]:
    """The runs that have not passed yet as they are now, in this precision. Nothing says what other models should compute."""
    return {name: place for name, place in places.items() if place.run is not None and not _has_passed(place, dtype)}


def _receipt(place: Located, dtype: torch.dtype) -> Path:
    return Path(place.run or "") / f"served-{NAMES[dtype]}.json"


def _passed(place: Located) -> dict[str, Any]:
    return {"source": stamp(place), "version": __version__}


def _has_passed(place: Located, dtype: torch.dtype) -> bool:
    with suppress(TutelageError):
        found: Any = read_json(_receipt(place, dtype))
        return isinstance(found, dict) and found.items() >= _passed(place).items()
    return False


def write_down(place: Located, dtype: torch.dtype, say: Say) -> Expected:
    """What the trained model makes of the held-out prompts, in the precision that is served."""
    say(f"{place.name}: proving once that it is served as it was trained (--skip-parity leaves this out)")
    opened = load_located(place, dtype, merge=False)
    source = Source(place, opened.model, opened.tokenizer, opened.template)
    rows, is_held_out = held_out(place.run, opened.template, PROMPTS, say)
    cases = list(make_cases(source, rows, TOKENS))
    questions = [question for case in cases for question in (case.replayed, case.judged) if question is not None]
    asked = FolderReplica(opened.model, opened.template, "transformers")
    trained = Written(opened.template, "transformers", {question: asked.logits(*question) for question in questions})
    return Expected(replace(source, model=None), cases, is_held_out, questions, trained)


def hold(served: Mapping[str, Served], expected: Mapping[str, Expected], dtype: torch.dtype, say: Say) -> None:
    """A CheckFailedError unless each of these models, as it is served, is the one that was trained."""
    for name, each in expected.items():
        engine, place = served[name].engine, each.source.located
        assert isinstance(engine, Engine)
        answers = as_streams(engine.runner, served[name].adapter, each.questions)
        replica = Written(served[name].template, "the server's engine", answers)
        parity = measure(each.source, replica, each.trained, each.cases, hard_texts(TEXTS), each.held_out)
        enforce(parity, BOUNDS[dtype], f"{name} as it would be served in {NAMES[dtype]}", FIX)
        change = f", loss {parity.loss_change:+.3%}" if parity.loss_change is not None else ""
        say(f"{name}: served as it was trained: {parity.agreement:.1%} of {parity.tokens} tokens agree{change}")
        path = _receipt(place, dtype)
        try:
            write_json(path, {**_passed(place), **parity.as_json()})
        except (OSError, OutputError):
            say(f"{path} cannot be written, so this is done again at the next start")
