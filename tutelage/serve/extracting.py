"""`POST /v1/extract`: the part of a context that answers a question, by characters, with its probability."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tutelage.data.rows import Question
from tutelage.data.types import At
from tutelage.serve.schema import Body
from tutelage.serve.task_shapes import MOST_INPUTS, Given, Outcome, TaskRequest, TaskResponse
from tutelage.tasks.extract import Answer, Extractor
from tutelage.tasks.opening import OpenedTask
from tutelage.taskspec import ExtractSpec


class Asked(Body):
    """A question on a context."""

    question: Given
    context: Given


class ExtractRequest(TaskRequest):
    """`POST /v1/extract`."""

    input: Asked | Annotated[list[Asked], Field(min_length=1, max_length=MOST_INPUTS)]

    def rows(self) -> list[Question]:
        """The questions as rows without answers."""
        given = self.input if isinstance(self.input, list) else [self.input]
        return [Question(item.context, item.question, At("request", number)) for number, item in enumerate(given)]


class Extraction(BaseModel):
    """One question's answer: the characters [start, end) of the context, as Unicode code points from 0, or nothing."""

    index: int
    object: Literal["extraction"]
    answer: str | None = Field(description="null: the context does not answer; only models trained on such rows say so")
    start: int | None
    end: int | None
    score: float = Field(description="the answer's probability among all spans of the context")


class ExtractResponse(TaskResponse):
    """The answer of `POST /v1/extract`."""

    data: list[Extraction]


class Finder:
    """Runs the task `extract`."""

    about = "finds answers in texts"
    route = "/v1/extract"
    context: int | None = None  # long contexts are read in windows

    def __init__(self, opened: OpenedTask) -> None:
        assert isinstance(opened.task, Extractor)
        assert isinstance(opened.task.spec, ExtractSpec)
        self.opened = opened
        self.task = opened.task
        self.may_be_none = bool(opened.task.spec.no_answer)
        self.labels: list[str] = []

    def compute(self, rows: Sequence[Question]) -> list[Outcome]:
        """Each question's item, by the answers that evaluation sees."""
        found = self.task.answer(self.opened.backbone, rows, self.opened.plan, may_be_none=self.may_be_none)
        return [
            Outcome(answer.tokens, _item(row, answer))
            if answer.tokens
            else Outcome(0, None, "has a question that leaves no room for its context, or a context without words")
            for row, answer in zip(rows, found)
        ]


def _item(row: Question, found: Answer) -> dict[str, Any]:
    if found.stop == 0:
        return {"object": "extraction", "answer": None, "start": None, "end": None, "score": found.chance}
    return {
        "object": "extraction", "answer": row.context[found.start : found.stop], "start": found.start, "end": found.stop,
        "score": found.chance,
    }  # fmt: skip
