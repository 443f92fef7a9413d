"""Two systems on the same rows: paired differences with a verdict each, and the rows that changed."""

from collections.abc import Sequence

from tutelage.errors import DataError
from tutelage.evaluate.examples import changed
from tutelage.evaluate.scoring import groups_of, statistics_of
from tutelage.evaluate.types import Comparison
from tutelage.metrics import Prediction, difference


def compare_predictions(
    names: tuple[str, str], first: Sequence[Prediction], second: Sequence[Prediction], metrics: Sequence[str], main: str
) -> Comparison:
    """`second` against `first`; both must be predictions of the same rows in the same order."""
    if [one.at for one in first] != [one.at for one in second]:
        odd = next((one.at for one, two in zip(first, second) if one.at != two.at), "the end")
        raise DataError(
            "the two systems were not scored on the same rows", where=str(odd),
            why=f"they have {len(first)} and {len(second)} predictions", fix="evaluate both on the same file",
        )  # fmt: skip
    before, _ = statistics_of(first, metrics)
    after, _ = statistics_of(second, metrics)
    groups = groups_of(second)
    found = {
        name: difference(before[name], after[name], groups) for name in metrics if name in before and name in after
    }
    return Comparison(*names, len(second), found, changed(first, second, main))
