"""ROUGE-1, -2, -L and -Lsum through rouge-score: the mean F1 over rows, the best reference of each."""

from collections.abc import Callable, Sequence
from typing import Any

from tutelage.errors import need
from tutelage.metrics.labels import require
from tutelage.metrics.statistics import About, Summed, mean
from tutelage.metrics.types import METRICS, Prediction

NAMES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}


def rouge(predictions: Sequence[Prediction], name: str) -> Summed:
    """The mean F1 of one kind of ROUGE, without stemming, as rouge-score's default. ROUGE-Lsum splits at line breaks."""
    require(predictions)
    scorer: Any = need("rouge_score.rouge_scorer", extra="eval").RougeScorer([name], use_stemmer=False)
    values = [float(scorer.score_multi(one.texts or ("",), one.text)[name].fmeasure) for one in predictions]
    return mean(values, About(signature=f"{name}|f1|stemmer:no|references:best"))


def _registered(name: str) -> Callable[[Sequence[Prediction]], Summed]:
    return lambda predictions: rouge(predictions, name)


for _name, _their_name in NAMES.items():
    METRICS.add(_name)(_registered(_their_name))
