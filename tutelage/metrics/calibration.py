"""Expected calibration error: how far the probability of the chosen label is from how often it is right."""

from collections.abc import Sequence

import numpy as np

from tutelage.errors import DataError
from tutelage.metrics.labels import labelled
from tutelage.metrics.statistics import About, Array, Summed, ratio
from tutelage.metrics.types import METRICS, Prediction

BINS = 15


@METRICS.add("calibration_error")
def calibration_error(predictions: Sequence[Prediction], bins: int = BINS) -> Summed:
    """Guo et al. 2017 (arXiv 1706.04599), equation 3: bins of equal width, weighted by the rows in them."""
    found = labelled(predictions)
    confidence = np.array([_confidence(one) for one in predictions])
    right = (found.right == found.given).all(axis=1).astype(np.float64)
    # Bins are open below and closed above, as in the paper.
    place = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
    rows = np.zeros((len(predictions), bins, 3))
    rows[np.arange(len(predictions)), place] = np.stack((np.ones_like(right), right, confidence), axis=1)
    about = About(higher_is_better=False, signature=f"bins:{bins}|width:equal|norm:l1")
    return Summed(rows.reshape(len(predictions), -1), lambda sums: _error(sums, bins), about)


def _error(sums: Array, bins: int) -> Array:
    table = sums.reshape(*sums.shape[:-1], bins, 3)
    gaps = np.abs(table[..., 1] - table[..., 2]).sum(axis=-1)
    return ratio(gaps, table[..., 0].sum(axis=-1))


def _confidence(prediction: Prediction) -> float:
    label = prediction.output
    if not isinstance(label, str) or label not in prediction.scores:
        raise DataError(
            "this prediction has no probability for its label", where=str(prediction.at),
            fix="score it with a task that gives probabilities (classify, one label), or leave this metric out",
        )  # fmt: skip
    confidence = prediction.scores[label]
    if not 0 <= confidence <= 1:
        raise DataError(f"the probability of the label is {confidence}", where=str(prediction.at), fix="give 0 to 1")
    return confidence
