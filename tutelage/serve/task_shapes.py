"""What the task routes share: the bounds of what they take, what a computation hands back, and the answer's frame."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tutelage.serve.problems import ApiError
from tutelage.serve.schema import Body, Text

MOST_INPUTS = 2048  # of one request, as OpenAI
MOST_CHARACTERS = 1 << 16  # of one text

Given = Annotated[Text, Field(min_length=1, max_length=MOST_CHARACTERS)]


class TaskRequest(Body):
    """The fields that all task routes share."""

    model: Annotated[Text, Field(max_length=256)]
    user: Any = Field(None, description="ignored")


class TaskUsage(BaseModel):
    """Tokens that were read, and those that were written where the task writes."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TaskResponse(BaseModel):
    """The answer's frame; `data` has one item an input, in their order."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    usage: TaskUsage


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one input: its item of `data`, or why there is none."""

    tokens: int
    item: dict[str, Any] | None = None
    problem: str = ""
    tokens_written: int = 0


def answer(model: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The whole answer; the first input that could not be read is an ApiError for all."""
    for index, outcome in enumerate(outcomes):
        if outcome.item is None:
            raise ApiError(
                400, f"input {index} {outcome.problem}", code="context_length_exceeded", param=f"input.{index}"
            )
    read, written = sum(each.tokens for each in outcomes), sum(each.tokens_written for each in outcomes)
    return {
        "id": f"task-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": model,
        "data": [{"index": index, **(outcome.item or {})} for index, outcome in enumerate(outcomes)],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }  # fmt: skip


def too_long(limit: int | None, hint: str = "shorten it") -> str:
    """Why an input that is longer than the model reads has no answer."""
    most = f"the {limit} tokens that this model reads" if limit is not None else "this model reads"
    return f"is longer than {most}: {hint}"
