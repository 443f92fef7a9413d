"""Entity-level precision, recall and F1: an entity counts if its words and its type are exactly right (seqeval).

The rows of a document are units of the intervals, so an entity never counts without its sentence.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tutelage.errors import DataError
from tutelage.metrics.f1 import KINDS, Average, Kind, averaged, of_class
from tutelage.metrics.labels import require
from tutelage.metrics.statistics import About, Array, Summed
from tutelage.metrics.tag_schemes import Entity, Scheme, detect, lenient, strict
from tutelage.metrics.types import METRICS, Prediction, Value

Reading = Callable[[Sequence[str]], set[Entity]]


def score(
    predictions: Sequence[Prediction], kind: Kind, average: Average = "micro", scheme: Scheme | None = None
) -> Summed:
    """The score of the entities; with `scheme` in seqeval's strict mode, else in its default one."""
    _, rows = entity_counts(predictions, scheme)
    about = About(signature=f"average:{average}|mode:{f'strict|scheme:{scheme}' if scheme else 'default'}")
    return Summed(rows, lambda sums: averaged(kind, average, sums), about)


def per_type(predictions: Sequence[Prediction], scheme: Scheme | None = None) -> dict[str, dict[Kind, Summed]]:
    """Precision, recall and F1 of each type of entity. All are resampled by row: entities of a row are not independent."""
    names, rows = entity_counts(predictions, scheme)
    size = len(names)
    found: dict[str, dict[Kind, Summed]] = {}
    for index, name in enumerate(names):
        columns = rows[:, [index, index + size, index + 2 * size]]
        found[name] = {kind: Summed(of_class(kind, columns).rows, of_class(kind, columns).value) for kind in KINDS}
    return found


def entity_counts(predictions: Sequence[Prediction], scheme: Scheme | None = None) -> tuple[tuple[str, ...], Array]:
    """The types, and [n, 3C]: how many entities of each type a row has right, wrongly given, missed."""
    require(predictions)
    reading: Reading = (lambda tags: strict(tags, scheme)) if scheme else lenient
    pairs = [(reading(right), reading(given)) for right, given in map(tags_of, predictions)]
    names = tuple(sorted({entity.kind for pair in pairs for side in pair for entity in side}))
    number = {name: index for index, name in enumerate(names)}
    rows = np.zeros((len(pairs), 3 * len(names)))
    for row, (right, given) in zip(rows, pairs):
        for part, entities in enumerate((right & given, given - right, right - given)):
            for entity in entities:
                row[number[entity.kind] + part * len(names)] += 1
    return names, rows


def reference_scheme(predictions: Sequence[Prediction]) -> Scheme:
    """The scheme of the reference tags, for the strict score."""
    return detect([tags_of(one)[0] for one in predictions])


def tags_of(prediction: Prediction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The reference's tags and as many given ones."""
    right, given = _row(prediction, prediction.reference), _row(prediction, prediction.output)
    if len(right) != len(given):
        raise DataError(f"the row has {len(right)} words and {len(given)} predicted tags", where=str(prediction.at))
    return right, given


def _row(prediction: Prediction, value: Value) -> tuple[str, ...]:
    if not isinstance(value, tuple):
        raise DataError(f"expected one tag per word, found {value!r}", where=str(prediction.at), fix="use a task: tag")
    return value


def _registered(kind: Kind, average: Average) -> Callable[[Sequence[Prediction]], Summed]:
    return lambda predictions: score(predictions, kind, average)


for _kind in KINDS:
    METRICS.add(f"entity_{_kind}")(_registered(_kind, "micro"))
METRICS.add("entity_f1_macro")(_registered("f1", "macro"))


@METRICS.add("entity_f1_strict")
def entity_f1_strict(predictions: Sequence[Prediction]) -> Summed:
    """Entity F1 where only what the references' scheme allows is an entity."""
    require(predictions)
    return score(predictions, "f1", "micro", reference_scheme(predictions))
