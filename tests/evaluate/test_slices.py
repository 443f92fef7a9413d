"""Parts of the rows."""

from dataclasses import replace

import pytest

from tutelage.errors import DataError
from tutelage.evaluate.slices import OTHER, slices
from tutelage.metrics import Prediction


def test_slices_cover_all_rows_once(labels: list[Prediction]) -> None:
    parts = slices(labels, "length", "accuracy")
    assert sum(one.score.n for one in parts) == len(labels)
    assert [int(one.value.split()[0]) for one in parts] == sorted(int(one.value.split()[0]) for one in parts)
    rows = [replace(labels[i % 6], columns={"shop": str(i if i > 20 else i % 9)}) for i in range(40)]
    by_column = slices(rows, "shop", "accuracy")
    assert sum(one.score.n for one in by_column) == 40
    assert by_column[-1].value == OTHER
    with pytest.raises(DataError, match="no row has a column `shpo`"):
        slices(rows, "shpo", "accuracy")
