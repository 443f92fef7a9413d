"""Which label is taken for which."""

from collections.abc import Callable

import pytest

from tutelage.evaluate.confusion import confusion, per_class, per_entity
from tutelage.metrics import Prediction

Row = Callable[..., Prediction]


def test_confusion_counts_every_row_and_names_the_commonest_mistake(labels: list[Prediction], row: Row) -> None:
    found = confusion(labels)
    assert found is not None
    assert found.names == ["billing", "card", "login"]
    assert found.counts == [[1, 0, 0], [0, 2, 1], [0, 1, 1]]
    assert found.frequent == [("card", "login", 1), ("login", "card", 1)]
    assert confusion([row(1, "", ("a",), ("a",))]) is None
    table = {one.name: one for one in per_class(labels)}
    assert table["card"].support == 3
    assert table["card"].recall.value == pytest.approx(2 / 3)
    entities = per_entity([row(1, "Anna runs", ("B-PER", "O"), ("B-PER", "O")), row(2, "x", ("O",), ("B-LOC",))])
    assert [(one.name, one.support) for one in entities] == [("LOC", 0), ("PER", 1)]
