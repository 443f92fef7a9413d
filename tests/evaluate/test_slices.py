"""Parts of the rows."""

from dataclasses import replace

import pytest

from tutelage.errors import DataError
from tutelage.evaluate.rows import Rows, require_columns
from tutelage.evaluate.slices import OTHER, slice_differences, slices
from tutelage.metrics import Prediction


def test_slices_cover_all_rows_once(labels: list[Prediction]) -> None:
    parts = slices(labels, "length", "accuracy")
    assert sum(one.score.n for one in parts) == len(labels)
    assert [int(one.value.split()[0]) for one in parts] == sorted(int(one.value.split()[0]) for one in parts)
    rows = [replace(labels[i % 6], columns={"shop": str(i if i > 20 else i % 9)}) for i in range(40)]
    by_column = slices(rows, "shop", "accuracy")
    assert sum(one.score.n for one in by_column) == 40
    assert by_column[-1].value == OTHER


def test_parts_by_length_name_their_words_once(labels: list[Prediction]) -> None:
    rows = [replace(labels[0], input="w " * count) for count in (4, 4, 4, 5, 5, 6, 7, 8)]
    assert [one.value for one in slices(rows, "length", "accuracy")] == ["4 words", "5 words", "6 to 8 words"]


def test_two_systems_are_compared_on_each_part(labels: list[Prediction]) -> None:
    first = [replace(labels[i % 6], columns={"shop": "ab"[i % 2]}) for i in range(40)]
    second = [replace(one, output=one.reference if one.columns["shop"] == "a" else one.output) for one in first]
    a, b = slice_differences(first, second, "shop", "accuracy")
    assert (a.value, b.value) == ("a", "b")
    assert a.difference.n == b.difference.n == 20
    assert a.difference.verdict == "better"
    assert a.difference.second == 1.0
    assert b.difference.value == 0.0
    assert b.difference.verdict == "cannot tell"


def test_columns_that_no_row_has_are_named_at_once(labels: list[Prediction]) -> None:
    rows = Rows("x", (), columns={one.at: {"shop": "a"} for one in labels})
    require_columns(rows, slice="length", group="shop")
    with pytest.raises(DataError) as caught:
        require_columns(rows, slice="shpo", group="length")
    assert [(one.what, one.where) for one in caught.value.problems] == [
        ("no row has a column `shpo`", "slice"), ("no row has a column `length`", "group"),
    ]  # fmt: skip
