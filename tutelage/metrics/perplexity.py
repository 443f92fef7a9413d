"""How likely a model finds the references: loss per token, perplexity, bits per byte."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from tutelage.errors import DataError
from tutelage.metrics.labels import require
from tutelage.metrics.statistics import About, Array, Summed, quotient
from tutelage.metrics.types import METRICS, Likelihood, Prediction

LOWER = About(high=math.inf, higher_is_better=False, interval="bootstrap-t")
LARGEST_LOG = 700.0  # exp of more is no float


@METRICS.add("loss")
def loss(predictions: Sequence[Prediction]) -> Summed:
    """Negative log-likelihood per token of the references in nats; every token counts the same."""
    return Summed(_sums(predictions, lambda one: one.tokens), quotient, LOWER)


@METRICS.add("perplexity")
def perplexity(predictions: Sequence[Prediction]) -> Summed:
    """exp of the loss: comparable only between models with the same tokenizer."""
    about = About(low=1.0, high=math.inf, higher_is_better=False, interval="bootstrap-t")
    return Summed(_sums(predictions, lambda one: one.tokens), _exponential, about)


@METRICS.add("bits_per_byte")
def bits_per_byte(predictions: Sequence[Prediction]) -> Summed:
    """Negative log-likelihood of the references in bits per byte of their text: comparable between tokenizers."""
    return Summed(_sums(predictions, lambda one: one.bytes), lambda sums: quotient(sums) / math.log(2), LOWER)


def _exponential(sums: Array) -> Array:
    return np.exp(np.minimum(quotient(sums), LARGEST_LOG))


def _sums(predictions: Sequence[Prediction], size: Callable[[Likelihood], float]) -> Array:
    require(predictions)
    rows = []
    for one in predictions:
        if one.likelihood is None:
            raise DataError(
                "this prediction has no likelihood of its reference", where=str(one.at),
                fix="score it with a generative task, or leave this metric out",
            )  # fmt: skip
        rows.append((one.likelihood.nats, size(one.likelihood)))
    return np.array(rows, dtype=np.float64)
