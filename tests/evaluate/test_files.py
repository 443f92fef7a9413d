"""Predictions in a file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tutelage.errors import DataError
from tutelage.evaluate.files import read_predictions, write_predictions
from tutelage.metrics import Likelihood, Prediction

Row = Callable[..., Prediction]


def test_predictions_survive_their_file(labels: list[Prediction], row: Row, tmp_path: Path) -> None:
    rows = [
        *labels, row(7, "t", ("B-PER", "O"), ("O", "O"), group="doc", columns={"shop": "a"}),
        row(8, "é\n", 1.5, 2.5, likelihood=Likelihood(1.25, 3.0, 4), ended="stop", scores={"a": 0.25}),
    ]  # fmt: skip
    file = write_predictions(tmp_path / "p.jsonl", rows)
    assert read_predictions(Path(file)) == rows
    with open(file, "a") as more:
        more.write(json.dumps({"file": "x"}) + "\n")
    with pytest.raises(DataError, match=r"p\.jsonl:9"):
        read_predictions(Path(file))
