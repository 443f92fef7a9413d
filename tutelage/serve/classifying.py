"""`POST /v1/classify`: labels with their probabilities, or a score, for texts and pairs of texts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tutelage.data.rows import Labelled
from tutelage.data.types import At
from tutelage.metrics.types import Prediction
from tutelage.serve.schema import Body
from tutelage.serve.task_shapes import MOST_INPUTS, Given, Outcome, TaskRequest, TaskResponse, too_long
from tutelage.tasks.opening import OpenedTask
from tutelage.taskspec import ClassifySpec

HERE = "request"  # the source of a row that came by HTTP


class TextPair(Body):
    """A text, and what it is compared with where the model was trained on pairs."""

    text: Given
    text_pair: Given | None = None


class ClassifyRequest(TaskRequest):
    """`POST /v1/classify`."""

    input: Given | TextPair | Annotated[list[Given | TextPair], Field(min_length=1, max_length=MOST_INPUTS)]
    truncate: bool = Field(False, description="cut texts that are too long, as evaluation does; else they are refused")

    def rows(self) -> list[tuple[Labelled, bool]]:
        """The texts as rows without labels, each with whether it may be cut."""
        given = self.input if isinstance(self.input, list) else [self.input]
        pairs = [TextPair(text=item) if isinstance(item, str) else item for item in given]
        return [(Labelled(pair.text, At(HERE, 0), second=pair.text_pair), self.truncate) for pair in pairs]


class Classification(BaseModel):
    """One text's labels."""

    index: int
    object: Literal["classification"]
    label: str | None = Field(description="the label; null where several may hold, and where the model gives a score")
    labels: list[str] = Field(description="all labels that hold")
    score: float | None = Field(description="the label's probability, or the model's score")
    scores: dict[str, float] = Field(description="the probability of each label")


class ClassifyResponse(TaskResponse):
    """The answer of `POST /v1/classify`."""

    data: list[Classification]


class Classifier:
    """Runs the task `classify`, with a head or by verbalised labels."""

    about = "labels texts"
    route = "/v1/classify"

    def __init__(self, opened: OpenedTask) -> None:
        assert isinstance(opened.task.spec, ClassifySpec)
        self.opened = opened
        self.spec = opened.task.spec
        self.labels: list[str] = list(self.spec.labels or ())
        self.context: int | None = None

    def compute(self, rows: Sequence[tuple[Labelled, bool]]) -> list[Outcome]:
        """Each row's item, by the predictions that evaluation makes."""
        placed = [self._placed(row, number) for number, (row, _) in enumerate(rows)]
        fitted = self.opened.task.fit(placed)
        tokens = {row.at: len(row.ids) for row in fitted.rows}
        cut = {row.at for row in fitted.rows if row.cut}
        wanted = [row for row, (_, may_cut) in zip(placed, rows) if may_cut or row.at not in cut]
        found = {one.at: one for one in self.opened.predict(wanted)}
        longest = max(tokens[at] for at in cut) if cut else None
        return [
            Outcome(tokens.get(row.at, 0), self._item(found[row.at]))
            if row.at in found
            else Outcome(0, None, too_long(longest, "shorten it, or send `truncate: true`"))
            for row in placed
        ]

    def _placed(self, row: Labelled, number: int) -> Labelled:
        """The row with a place of its own, and with a label or score that only fills the field."""
        if self.spec.num_labels == 1:
            return replace(row, at=At(HERE, number), score=0.0)
        return replace(row, at=At(HERE, number), labels=() if self.spec.multi_label else tuple(self.labels[:1]))

    def _item(self, one: Prediction) -> dict[str, Any]:
        label = one.output if isinstance(one.output, str) else None
        labels = [label] if label is not None else list(one.output) if isinstance(one.output, tuple) else []
        score = one.output if isinstance(one.output, float) else one.scores.get(label) if label is not None else None
        return {
            "object": "classification", "label": label, "labels": labels, "score": score, "scores": dict(one.scores),
        }  # fmt: skip
