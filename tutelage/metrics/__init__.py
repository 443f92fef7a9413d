"""Metrics, one family a file: predictions to statistics, statistics to intervals. Importing this package registers them."""

from tutelage.metrics import (
    accuracy,
    answers,
    calibration,
    entity_f1,
    f1,
    mcc,
    open_answers,
    perplexity,
    regression,
    roc_auc,
    rouge,
    tag_accuracy,
    translation,
)
from tutelage.metrics.intervals import Difference, Estimate, difference, estimate
from tutelage.metrics.types import METRICS, Likelihood, Metric, Prediction

__all__ = [
    "METRICS", "Difference", "Estimate", "Likelihood", "Metric", "Prediction", "accuracy", "answers", "calibration",
    "difference", "entity_f1", "estimate", "f1", "mcc", "open_answers", "perplexity", "regression", "roc_auc", "rouge",
    "tag_accuracy", "translation",
]  # fmt: skip
