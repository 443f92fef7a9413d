"""Exact match and token F1 of short answers by the rules of the official SQuAD scripts, as shares of 1.

Texts are lower-cased, freed of punctuation and English articles, and split at whitespace. The best of several references
counts. Where the right answer is no answer, the output must be empty (SQuAD 2.0); with an answer to every question
this is the script of SQuAD 1.1.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from tutelage.metrics.labels import require
from tutelage.metrics.statistics import About, Summed, mean, share
from tutelage.metrics.types import METRICS, Prediction

ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
PUNCTUATION = str.maketrans("", "", string.punctuation)
SIGNATURE = "normalise:squad|references:best"


@METRICS.add("exact_match")
def exact_match(predictions: Sequence[Prediction]) -> Summed:
    """The share of outputs that equal a reference after normalisation."""
    require(predictions)
    return share([best(one, _exact) == 1 for one in predictions], About(interval="wilson", signature=SIGNATURE))


@METRICS.add("token_f1")
def token_f1(predictions: Sequence[Prediction]) -> Summed:
    """The mean F1 of the words that output and best reference have in common."""
    require(predictions)
    return mean([best(one, overlap) for one in predictions], About(signature=SIGNATURE))


def normalised(text: str) -> str:
    """The text as the SQuAD scripts compare it."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def best(prediction: Prediction, score: Callable[[str, str], float]) -> float:
    """The highest score over the references that are more than articles and punctuation; over the empty text if none is."""
    references = [text for text in prediction.texts if normalised(text)] or [""]
    return max(score(text, prediction.text) for text in references)


def overlap(reference: str, output: str) -> float:
    """F1 of the words in common, with repeats; of two texts without words 1, of one such 0."""
    right, given = normalised(reference).split(), normalised(output).split()
    if not right or not given:
        return float(right == given)
    same = sum((Counter(right) & Counter(given)).values())
    return 2 * same / (len(right) + len(given))


def _exact(reference: str, output: str) -> float:
    return float(normalised(reference) == normalised(output))
