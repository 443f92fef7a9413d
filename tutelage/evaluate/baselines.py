"""Trivial systems that any model should beat: the most frequent answer, the input itself, its first sentence."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from tutelage.metrics import Prediction
from tutelage.metrics.types import Value
from tutelage.registry import Registry

Baseline = Callable[[Sequence[Prediction], Sequence[Value]], list[Prediction]]
BASELINES: Registry[Baseline] = Registry("baseline")
SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n")

# Which baselines say something of a task.
FOR_TASK: dict[str, tuple[str, ...]] = {
    "chat": ("majority", "copy", "lead"), "seq2seq": ("copy", "lead"), "classify": ("majority",), "tag": ("majority_tag",),
    "extract": ("majority",), "text": (),
}  # fmt: skip


@BASELINES.add("majority")
def majority(predictions: Sequence[Prediction], training: Sequence[Value]) -> list[Prediction]:
    """The most frequent reference of the training rows for every row; of numbers it is their mean.

    Without training rows it is that of the scored rows, which flatters it.
    """
    known = list(training) or [one.reference for one in predictions]
    numbers = [value for value in known if isinstance(value, float)]
    if len(numbers) == len(known):
        center = sum(numbers) / len(numbers)
        return [_answered(one, center) for one in predictions]
    first = Counter(known).most_common(1)[0][0]
    return [_answered(one, first) for one in predictions]


@BASELINES.add("majority_tag")
def majority_tag(predictions: Sequence[Prediction], training: Sequence[Value]) -> list[Prediction]:
    """The most frequent tag of the training rows for every word; without training rows that of the scored rows."""
    known = list(training) or [one.reference for one in predictions]
    tag = Counter(tag for value in known if isinstance(value, tuple) for tag in value).most_common(1)[0][0]
    return [_answered(one, (tag,) * len(one.reference)) for one in predictions if isinstance(one.reference, tuple)]


@BASELINES.add("copy")
def copy(predictions: Sequence[Prediction], training: Sequence[Value]) -> list[Prediction]:
    """The input as it is."""
    return [_answered(one, one.input) for one in predictions]


@BASELINES.add("lead")
def lead(predictions: Sequence[Prediction], training: Sequence[Value]) -> list[Prediction]:
    """The input's first sentence."""
    return [_answered(one, SENTENCE_END.split(one.input.strip(), maxsplit=1)[0]) for one in predictions]


def _answered(prediction: Prediction, output: Value) -> Prediction:
    return replace(prediction, output=output, scores={}, likelihood=None, ended="")
