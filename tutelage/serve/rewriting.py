"""`POST /v1/seq2seq`: what an encoder-decoder writes for a text: a summary, a translation."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tutelage.data.rows import Pair
from tutelage.data.types import At
from tutelage.encode.types import Encoded
from tutelage.serve.task_shapes import MOST_INPUTS, Given, Outcome, TaskRequest, TaskResponse, too_long
from tutelage.tasks.opening import OpenedTask
from tutelage.tasks.seq2seq import Pairs, Written


class Seq2SeqRequest(TaskRequest):
    """`POST /v1/seq2seq`."""

    input: Given | Annotated[list[Given], Field(min_length=1, max_length=MOST_INPUTS)]
    truncate: bool = Field(False, description="cut texts that are too long, as evaluation does; else they are refused")

    def rows(self) -> list[tuple[str, bool]]:
        """The sources, each with whether it may be cut."""
        given = [self.input] if isinstance(self.input, str) else self.input
        return [(text, self.truncate) for text in given]


class Rewriting(BaseModel):
    """What was written for one text."""

    index: int
    object: Literal["text"]
    text: str
    finish_reason: Literal["stop", "length"] = Field(description="length: it was cut at the run's `max_target_tokens`")


class Seq2SeqResponse(TaskResponse):
    """The answer of `POST /v1/seq2seq`."""

    data: list[Rewriting]


class Rewriter:
    """Runs the task `seq2seq` of an encoder-decoder."""

    about = "rewrites texts"
    route = "/v1/seq2seq"

    def __init__(self, opened: OpenedTask) -> None:
        assert isinstance(opened.task, Pairs)
        self.opened = opened
        self.task = opened.task
        self.context: int | None = opened.task.tokens.limit
        self.labels: list[str] = []

    def compute(self, rows: Sequence[tuple[str, bool]]) -> list[Outcome]:
        """Each source's item: the run's prefix before it, written with the run's generation settings, as in evaluation."""
        fitted = self.task.fit([Pair(text, ("",), At("request", number)) for number, (text, _) in enumerate(rows)])
        chosen = [row for row, (_, may_cut) in zip(fitted.rows, rows, strict=True) if may_cut or not row.cut]
        found = {
            row.at: one for row, one in zip(chosen, self.task.write(self.opened.backbone, chosen, self.opened.plan))
        }
        refusal = too_long(self.task.tokens.limit, "shorten it, or send `truncate: true`")
        return [_outcome(row, found[row.at]) if row.at in found else Outcome(0, None, refusal) for row in fitted.rows]


def _outcome(row: Encoded, one: Written) -> Outcome:
    assert row.source is not None
    return Outcome(
        len(row.source), {"object": "text", "text": one.text, "finish_reason": one.ended}, tokens_written=one.tokens
    )
