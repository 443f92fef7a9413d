"""Labels of predictions as arrays: which classes exist, which each row has, and which it was given."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError
from tutelage.metrics.types import Prediction, Value


@dataclass(frozen=True, slots=True)
class Labelled:
    """`names` of all classes that occur, sorted; `right` and `given` [n, C]: whether a row has, and was given, a class."""

    names: tuple[str, ...]
    right: NDArray[np.bool_]
    given: NDArray[np.bool_]


def labelled(predictions: Sequence[Prediction]) -> Labelled:
    """The labels of the predictions; classes are those that occur as a reference or as an output, as in scikit-learn."""
    require(predictions)
    right = [_labels(one, one.reference, "reference") for one in predictions]
    given = [_labels(one, one.output, "output") for one in predictions]
    names = tuple(sorted({label for labels in (*right, *given) for label in labels}))
    return Labelled(names, _matrix(names, right), _matrix(names, given))


def require(predictions: Sequence[Prediction]) -> None:
    """A sentence where there is nothing to score."""
    if not predictions:
        raise DataError(
            "there is nothing to score", why="the metric was given no predictions", fix="give it a row or more"
        )


def _labels(prediction: Prediction, value: Value, what: str) -> tuple[str, ...]:
    if isinstance(value, float):
        raise DataError(f"the {what} is a number, not a label", where=str(prediction.at), fix="use mse or pearson")
    return (value,) if isinstance(value, str) else value


def _matrix(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> NDArray[np.bool_]:
    number = {name: index for index, name in enumerate(names)}
    matrix = np.zeros((len(rows), len(names)), dtype=np.bool_)
    for index, labels in enumerate(rows):
        matrix[index, [number[label] for label in labels]] = True
    return matrix
