"""What is scored, and what a metric is: predictions in, a statistic out that can be resampled without the texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tutelage.data.types import At
from tutelage.metrics.statistics import Statistic
from tutelage.registry import Registry

Value = str | float | tuple[str, ...]
Ended = Literal["", "stop", "length", "context"]  # as generate.decode.Reason; "" where nothing was generated


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely the model found the reference: its negative log-likelihood and its size."""

    nats: float
    tokens: float  # of the reference, each times its loss weight
    bytes: int  # of the reference's text in UTF-8


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row with what a model, or a trivial baseline, made of it. What `reference` and `output` hold depends on the task:

    one label: a `str`; several labels: a tuple of them (also an empty one); a score: a `float`; tagging: one tag per word;
    answers and texts: the output is a `str`, the reference a `str` or a tuple of texts that are all right, and an empty
    tuple says that there is no answer.
    """

    at: At
    input: str
    reference: Value
    output: Value
    scores: Mapping[str, float] = field(default_factory=dict)  # label → probability, where the task has them
    likelihood: Likelihood | None = None
    ended: Ended = ""
    group: str = ""  # rows of one group (a document, a dialogue) are not independent: they are resampled together
    columns: Mapping[str, str] = field(default_factory=dict)  # further columns of the row, for slices
    context: str = ""  # what else was read: the text that an answer is a part of, or the turns before the question

    @property
    def texts(self) -> tuple[str, ...]:
        """The reference as the texts that are all right; empty where the right answer is no answer."""
        given = self.reference
        return given if isinstance(given, tuple) else (str(given),)

    @property
    def text(self) -> str:
        """The output as text."""
        return " ".join(self.output) if isinstance(self.output, tuple) else str(self.output)


Metric = Callable[[Sequence[Prediction]], Statistic]

METRICS: Registry[Metric] = Registry("metric")
