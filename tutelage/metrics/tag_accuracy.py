"""The share of words with the right tag; and tags that mark no spans (parts of speech), which entity scores say nothing about."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tutelage.metrics.entity_f1 import tags_of
from tutelage.metrics.labels import require
from tutelage.metrics.statistics import Summed, ratio
from tutelage.metrics.types import METRICS, Prediction

SPAN = re.compile("O|[BIESLU](-.*)?")  # a tag of any scheme


@METRICS.add("tag_accuracy")
def tag_accuracy(predictions: Sequence[Prediction]) -> Summed:
    """seqeval's accuracy_score. The rows are units of the interval: words of a sentence are not independent."""
    require(predictions)
    pairs = [tags_of(one) for one in predictions]
    right = [sum(a == b for a, b in zip(*pair)) for pair in pairs]
    rows = np.array([(count, len(pair[0])) for count, pair in zip(right, pairs)], dtype=np.float64)
    return Summed(rows, lambda sums: ratio(sums[..., 0], sums[..., 1]))


def marks_spans(predictions: Sequence[Prediction]) -> bool:
    """Whether the references' tags are those of a scheme, such as B-PER and I-PER."""
    return all(SPAN.fullmatch(tag) for one in predictions for tag in tags_of(one)[0])


def by_word(predictions: Sequence[Prediction]) -> list[Prediction]:
    """A prediction for each word, of one label; those of a row are a group."""
    return [
        replace(one, reference=right, output=given, group=one.group or str(one.at))
        for one in predictions
        for right, given in zip(*tags_of(one))
    ]
