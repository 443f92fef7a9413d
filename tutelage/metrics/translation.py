"""BLEU, chrF and TER: the counts of every sentence are sacrebleu's, the score of their sums is its formula on arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tutelage.errors import need
from tutelage.metrics.labels import require
from tutelage.metrics.statistics import About, Array, Summed, ratio
from tutelage.metrics.types import METRICS, Prediction

ORDERS = 4
PERCENT = About(high=100.0)


@METRICS.add("bleu")
def bleu(predictions: Sequence[Prediction]) -> Summed:
    """Corpus BLEU, 0 to 100, with sacrebleu's defaults (13a tokens, case kept, exponential smoothing)."""
    return _score(predictions, "BLEU", bleu_of, higher_is_better=True)


@METRICS.add("chrf")
def chrf(predictions: Sequence[Prediction]) -> Summed:
    """Corpus chrF2, 0 to 100: F2 of character n-grams up to 6."""
    return _score(predictions, "CHRF", chrf_of, higher_is_better=True)


@METRICS.add("ter")
def ter(predictions: Sequence[Prediction]) -> Summed:
    """Translation edit rate: edits and shifts per hundred reference words; less is better, and it may exceed 100."""
    return _score(predictions, "TER", ter_of, higher_is_better=False, high=np.inf)


def _score(
    predictions: Sequence[Prediction], name: str, of: Callable[[Array], Array], *, higher_is_better: bool,
    high: float = 100.0,
) -> Summed:  # fmt: skip
    require(predictions)
    metric: Any = getattr(need("sacrebleu.metrics", extra="eval"), name)()
    texts = [one.texts or ("",) for one in predictions]
    most = max(map(len, texts))
    # sacrebleu takes one list per reference number, with None where a row has fewer.
    streams = [[row[index] if index < len(row) else None for row in texts] for index in range(most)]
    # Its per-sentence statistics have no public name, and its corpus_score uses them in just this way; the parity test
    # would notice a change.
    rows = metric._extract_corpus_statistics([one.text for one in predictions], streams)
    about = About(0.0, high, higher_is_better, signature=metric.get_signature().format())
    return Summed(np.array(rows, dtype=np.float64), of, about)


def bleu_of(sums: Array) -> Array:
    """BLEU from [..., output length, reference length, 4 matches, 4 totals] (Papineni et al. 2002; smoothing: Chen and
    Cherry 2014, method 3).
    """
    length, reference = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2 : 2 + ORDERS], sums[..., 2 + ORDERS :]
    halvings = 2.0 ** np.cumsum(correct == 0, axis=-1)
    precision = np.where(correct == 0, 1 / halvings, correct) / np.where(total == 0, 1.0, total)
    defined = (total > 0).all(axis=-1) & (correct > 0).any(axis=-1)
    short = np.minimum(0.0, 1 - ratio(reference, length, empty=np.inf))
    logs = np.log(np.where(precision > 0, precision, 1.0)).mean(axis=-1)
    return np.where(defined, 100 * np.exp(short + logs), 0.0)


def chrf_of(sums: Array) -> Array:
    """chrF2 from [..., 6 x (output, reference, matching n-grams)] (Popović 2015)."""
    given, right, same = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    both = (given > 0) & (right > 0)
    orders = both.sum(axis=-1).astype(np.float64)
    precision = ratio(np.where(both, ratio(same, given), 0.0).sum(axis=-1), orders)
    recall = ratio(np.where(both, ratio(same, right), 0.0).sum(axis=-1), orders)
    return 100 * ratio(5 * precision * recall, 4 * precision + recall)


def ter_of(sums: Array) -> Array:
    """TER from [..., edits, reference length] (Snover et al. 2006)."""
    edits, length = sums[..., 0], sums[..., 1]
    return 100 * np.where(length > 0, ratio(edits, length), (edits > 0).astype(np.float64))
