"""Which label is taken for which, and precision, recall and F1 of each: for rows with one label, and for entities."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tutelage.evaluate.scoring import groups_of
from tutelage.metrics import Estimate, Prediction, entity_f1, estimate, f1
from tutelage.metrics.statistics import Summed

MOST_SHOWN = 30


@dataclass(frozen=True)
class Confusion:
    """counts[i][j]: rows of label i that were given label j. Labels are sorted; `frequent` are the commonest mistakes."""

    names: list[str]
    counts: list[list[int]]
    frequent: list[tuple[str, str, int]]


@dataclass(frozen=True)
class ClassScore:
    """One label's (or entity type's) scores, and how many references have it."""

    name: str
    support: int
    precision: Estimate
    recall: Estimate
    f1: Estimate


def confusion(predictions: Sequence[Prediction]) -> Confusion | None:
    """The matrix of rows with one label each; None for other rows."""
    pairs = [(one.reference, one.output) for one in predictions]
    single = [(right, given) for right, given in pairs if isinstance(right, str) and isinstance(given, str)]
    if len(single) < len(pairs):
        return None
    names = sorted({name for pair in single for name in pair})
    counted = Counter(single)
    mistakes = sorted(((r, g, n) for (r, g), n in counted.items() if r != g), key=lambda item: (-item[2], item))
    return Confusion(names, [[counted[right, given] for given in names] for right in names], mistakes[:MOST_SHOWN])


def per_class(predictions: Sequence[Prediction], *, seed: int = 0) -> list[ClassScore]:
    """The scores of every label; none where the references are numbers."""
    if any(isinstance(one.reference, float) for one in predictions):
        return []
    return _table(f1.per_class(predictions), predictions, seed)


def per_entity(predictions: Sequence[Prediction], *, seed: int = 0) -> list[ClassScore]:
    """The scores of every type of entity."""
    return _table(entity_f1.per_type(predictions), predictions, seed)


def _table(scores: dict[str, dict[f1.Kind, Summed]], predictions: Sequence[Prediction], seed: int) -> list[ClassScore]:
    groups = groups_of(predictions)
    found = []
    for name, kinds in scores.items():
        hits, _, missed = kinds["f1"].rows.sum(axis=0)
        one = {kind: estimate(statistic, groups, seed=seed) for kind, statistic in kinds.items()}
        found.append(ClassScore(name, int(hits + missed), one["precision"], one["recall"], one["f1"]))
    return found
