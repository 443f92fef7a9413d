"""Matthews' correlation coefficient of single labels, for any number of classes (Gorodkin, Comp. Biol. Chem. 2004)."""

from collections.abc import Sequence

import numpy as np

from tutelage.errors import DataError
from tutelage.metrics.labels import labelled
from tutelage.metrics.statistics import About, Array, Summed, ratio
from tutelage.metrics.types import METRICS, Prediction


@METRICS.add("mcc")
def mcc(predictions: Sequence[Prediction]) -> Summed:
    """scikit-learn's matthews_corrcoef: from -1 to 1, and 0 where labels or outputs are all the same."""
    found = labelled(predictions)
    several = np.flatnonzero((found.right.sum(axis=1) != 1) | (found.given.sum(axis=1) != 1))
    if len(several):
        where = str(predictions[int(several[0])].at)
        raise DataError("mcc is for rows with one label", where=where, fix="use f1_micro or f1_macro")
    hits = (found.right & found.given).sum(axis=1, keepdims=True)
    rows = np.concatenate((hits, found.right, found.given), axis=1).astype(np.float64)
    return Summed(rows, _value, About(low=-1.0))


def _value(sums: Array) -> Array:
    hits, (right, given) = sums[..., 0], np.split(sums[..., 1:], 2, axis=-1)
    total = right.sum(axis=-1)
    top = hits * total - (right * given).sum(axis=-1)
    bottom = np.sqrt((total**2 - (given**2).sum(axis=-1)) * (total**2 - (right**2).sum(axis=-1)))
    return ratio(top, bottom)
