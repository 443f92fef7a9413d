"""Accuracy: the share of rows whose output is the reference; with several labels, whose label sets are equal."""

from collections.abc import Sequence

from tutelage.metrics.labels import labelled
from tutelage.metrics.statistics import Summed, share
from tutelage.metrics.types import METRICS, Prediction


@METRICS.add("accuracy")
def accuracy(predictions: Sequence[Prediction]) -> Summed:
    """scikit-learn's accuracy_score (for several labels: subset accuracy)."""
    found = labelled(predictions)
    return share((found.right == found.given).all(axis=1).tolist())
