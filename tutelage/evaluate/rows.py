"""The rows that are scored: those of a file, or a run's held-out ones, with their further columns for slices and documents."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tutelage.data.prepare import prepare
from tutelage.data.sources import files, read
from tutelage.data.types import At, Conversation, Dropped
from tutelage.errors import DataError, Problem, UsageError
from tutelage.metrics import Prediction
from tutelage.metrics.types import Value
from tutelage.recipe import DataSpec, Recipe, read_recipe
from tutelage.registry import suggestion
from tutelage.runs import MANIFEST, find_run, read_json

MOST_CHARACTERS = 100  # of a column's value: longer ones are texts, not classes


@dataclass(frozen=True)
class Rows:
    """What is scored. `training` are the references of a run's training rows, for the majority baseline."""

    name: str
    rows: tuple[Conversation, ...]
    dropped: tuple[Dropped, ...] = ()
    columns: dict[At, dict[str, str]] | None = None
    training: tuple[Value, ...] = ()


def recipe_of(model: str) -> Recipe | None:
    """The recipe of a run folder, or None for what is no run."""
    for folder in (Path(model), Path("runs") / model):
        if (folder / MANIFEST).is_file() and (folder / "recipe.yaml").is_file():
            return read_recipe(folder / "recipe.yaml")
    return None


def precision_of(model: str) -> str:
    """The precision that a run was trained and validated in: its scores are then comparable to those in its log."""
    return str(read_json(find_run(model) / MANIFEST).get("plan", {}).get("precision", "fp32"))


def read_rows(data: str | None, recipe: Recipe | None, *, most: int = 0) -> Rows:
    """The rows of the file or folder `data`, or without it the run's held-out rows; at most `most`, evenly spread."""
    training: tuple[Value, ...] = ()
    if recipe is not None and (recipe.data.train or recipe.data.rows):
        prepared = prepare(recipe.data, seed=recipe.seed)
        training = tuple(_reference(row) for row in prepared.train)
        if data is None:
            if not prepared.validation:
                raise DataError(
                    "this run has no held-out rows", where="data.validation", fix="evaluate with --data FILE"
                )
            return Rows("held-out rows", _spread(prepared.validation, most), (), None, training)
    if data is None:
        raise UsageError("there is nothing to score", where="data", fix="--data FILE")
    found = prepare(DataSpec(train=[data]), seed=0)
    return Rows(data, _spread(found.train, most), found.dropped, columns_of(data), training)


def columns_of(data: str) -> dict[At, dict[str, str]]:
    """The short values of every row of the files at `data`: what rows can be sliced and grouped by."""
    found: dict[At, dict[str, str]] = {}
    for file in files(data):
        for item in read(file):
            if isinstance(item, Problem):
                continue  # has been raised when the rows were read
            at, row = item
            found[at] = {
                key: str(value)
                for key, value in row.items()
                if isinstance(value, str | int | float) and len(str(value)) <= MOST_CHARACTERS
            }
    return found


def with_columns(predictions: Sequence[Prediction], rows: Rows, group: str | None) -> list[Prediction]:
    """The predictions with their row's columns, and with the value of the column `group` as their document."""
    columns = rows.columns or {}
    known = sorted({name for values in columns.values() for name in values})
    if group is not None and group not in known:
        why = f"the rows have {', '.join(known[:20])}" if known else "the rows have no further columns"
        raise DataError(f"no row has a column `{group}`", where="group", why=why, fix=suggestion(group, known))
    found = []
    for one in predictions:
        values = columns.get(one.at, {})
        found.append(replace(one, columns=values, group=values.get(group, "") if group else one.group))
    return found


def _reference(row: Conversation) -> str:
    return next(message.content for message in reversed(row.messages) if message.role == "assistant")


def _spread(rows: tuple[Conversation, ...], most: int) -> tuple[Conversation, ...]:
    if most <= 0 or len(rows) <= most:
        return rows
    return tuple(rows[i * len(rows) // most] for i in range(most))
