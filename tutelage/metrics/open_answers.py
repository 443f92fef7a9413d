"""What can be said of open answers without a reference: variety, length, and whether they end by themselves."""

from collections.abc import Callable, Sequence

import numpy as np

from tutelage.errors import DataError
from tutelage.metrics.labels import require
from tutelage.metrics.statistics import CHUNK, About, Array, Summed, Weighted, mean, quotient, ratio, share
from tutelage.metrics.types import METRICS, Prediction

NEUTRAL = About(high=np.inf, higher_is_better=None, interval="bootstrap-t")


def distinct(predictions: Sequence[Prediction], order: int) -> Weighted:
    """Different n-grams of words per n-gram, over all outputs together (Li et al. 2016, arXiv 1510.03055, section 5.2).

    It falls with the number of outputs, so only sets of the same size compare; a row drawn twice brings nothing new, so
    its interval is the jackknife's.
    """
    require(predictions)
    rows = [_grams(one.text.split(), order) for one in predictions]
    number = {gram: index for index, gram in enumerate({gram: None for row in rows for gram in row})}
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    grams = np.array([number[gram] for row in rows for gram in row], dtype=np.intp)
    # Rows and n-grams as pairs, each once and by n-gram: a gram occurs if one of its rows does.
    pairs = np.unique(np.stack((grams, owners), axis=1), axis=0) if len(grams) else np.zeros((0, 2), dtype=np.intp)
    starts = np.searchsorted(pairs[:, 0], np.arange(len(number)))
    sizes = np.array([len(row) for row in rows], dtype=np.float64)

    def of(weights: Array) -> Array:
        if not len(pairs):
            return np.zeros(len(weights))
        step = max(1, CHUNK // len(pairs))
        parts = [weights[start : start + step] for start in range(0, len(weights), step)]
        found = [(np.maximum.reduceat(part[:, pairs[:, 1]], starts, axis=1) > 0).sum(axis=1) for part in parts]
        return ratio(np.concatenate(found).astype(np.float64), weights @ sizes)

    return Weighted(len(rows), of, About(interval="jackknife", signature=f"words:whitespace|order:{order}"))


def _grams(words: list[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(words[index : index + order]) for index in range(len(words) - order + 1)]


def _registered(order: int) -> Callable[[Sequence[Prediction]], Weighted]:
    return lambda predictions: distinct(predictions, order)


for _order in (1, 2, 3):
    METRICS.add(f"distinct_{_order}")(_registered(_order))


@METRICS.add("output_words")
def output_words(predictions: Sequence[Prediction]) -> Summed:
    """The mean number of words (by whitespace) of an output. More is neither better nor worse."""
    require(predictions)
    return mean([float(len(one.text.split())) for one in predictions], NEUTRAL)


@METRICS.add("length_ratio")
def length_ratio(predictions: Sequence[Prediction]) -> Summed:
    """Words of all outputs per word of all references (of several, their mean): 1 is as long as they are."""
    require(predictions)
    rows = [
        (len(one.text.split()), sum(len(text.split()) for text in one.texts) / max(1, len(one.texts)))
        for one in predictions
    ]
    return Summed(np.array(rows, dtype=np.float64), quotient, NEUTRAL)


@METRICS.add("stopped")
def stopped(predictions: Sequence[Prediction]) -> Summed:
    """The share of outputs that the model ended itself, not a limit."""
    require(predictions)
    for one in predictions:
        if not one.ended:
            raise DataError("nothing was generated for this row", where=str(one.at), fix="leave this metric out")
    return share([one.ended == "stop" for one in predictions])


@METRICS.add("empty")
def empty(predictions: Sequence[Prediction]) -> Summed:
    """The share of outputs without a word."""
    require(predictions)
    return share([not one.text.strip() for one in predictions], About(higher_is_better=False, interval="wilson"))
