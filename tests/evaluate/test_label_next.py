"""What to label next."""

import math
from collections.abc import Callable

import pytest

from tutelage.errors import DataError
from tutelage.evaluate.label_next import Uncertain, as_rows, label_next, uncertainty, unsure_of_tags
from tutelage.metrics import Likelihood, Prediction

Row = Callable[..., Prediction]


def test_what_the_model_is_least_sure_of_is_labelled_next(labels: list[Prediction], row: Row) -> None:
    rows = [
        row(1, "sure", "", "a", scores={"a": 0.98, "b": 0.02}), row(2, "torn", "", "a", scores={"a": 0.51, "b": 0.49}),
        row(3, "half", "", "b", scores={"a": 0.3, "b": 0.7}), row(4, "Torn ", "", "a", scores={"a": 0.5, "b": 0.5}),
    ]  # fmt: skip
    found = label_next(Uncertain(one, uncertainty(one)) for one in rows)
    assert [item.prediction.at.row for item in found] == [2, 3, 1]  # row 4 is row 2 again
    originals = {one.at: {"text": one.input, "from": "mail"} for one in rows}
    assert as_rows(found, originals)[0] == {
        "text": "torn", "from": "mail", "guess": "a", "uncertainty": 0.9997, "file": "test.jsonl", "row": 2,
    }  # fmt: skip
    assert uncertainty(row(1, "", "", (), scores={"a": 0.5, "b": 0.5, "c": 0.5})) == pytest.approx(1.0)
    assert uncertainty(row(1, "", "", "x", likelihood=Likelihood(6.0, 3, 9))) == 2.0
    assert unsure_of_tags((1.0, 1.0)) == 0
    assert unsure_of_tags((0.5, 0.25)) == pytest.approx(1.5 * math.log(2))
    with pytest.raises(DataError, match=r"test\.jsonl:1"):
        uncertainty(labels[0])
