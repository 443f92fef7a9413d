"""Predictions as JSON Lines: one row each, with the file and row that it belongs to."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tutelage.data.types import At
from tutelage.errors import DataError, MissingInputError
from tutelage.metrics import Likelihood, Prediction
from tutelage.runs import write_text


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> str:
    """The path, after the predictions were written to it."""
    return write_lines(path, [as_json(one) for one in predictions])


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """The path, after the rows were written to it as JSON Lines."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def as_json(prediction: Prediction) -> dict[str, Any]:
    """A prediction as one line of the file; what it does not have is left out."""
    likelihood = asdict(prediction.likelihood) if prediction.likelihood else None
    values: dict[str, Any] = {
        "file": prediction.at.source, "row": prediction.at.row, "input": prediction.input,
        "reference": prediction.reference, "output": prediction.output, "scores": dict(prediction.scores),
        "likelihood": likelihood, "ended": prediction.ended, "group": prediction.group,
        "columns": dict(prediction.columns), "context": prediction.context,
    }  # fmt: skip
    needed = ("file", "row", "input", "reference", "output")
    return {key: value for key, value in values.items() if value or key in needed}


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions in a file that `write_predictions` wrote."""
    if not path.is_file():
        raise MissingInputError("there is no such file of predictions", where=str(path), fix="tutelage evaluate")
    found = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                found.append(_prediction(json.loads(line)))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError("this line is no prediction", where=f"{path}:{number}", why=str(error)) from error
    return found


def _prediction(values: dict[str, Any]) -> Prediction:
    likelihood = values.get("likelihood")
    return Prediction(
        at=At(values["file"], values["row"]), input=values["input"], reference=_value(values["reference"]),
        output=_value(values["output"]), scores=values.get("scores", {}),
        likelihood=Likelihood(**likelihood) if likelihood else None, ended=values.get("ended", ""),
        group=values.get("group", ""), columns=values.get("columns", {}), context=values.get("context", ""),
    )  # fmt: skip


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
