"""The rows that are scored: those of a file, or a run's held-out ones, with their further columns for slices and documents."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tutelage.data.prepare import prepare
from tutelage.data.rows import Labelled, Pair, Plain, Question, Tagged
from tutelage.data.sources import files, read
from tutelage.data.types import At, Conversation, Dropped, Row
from tutelage.errors import DataError, Problem, UsageError
from tutelage.metrics import Prediction
from tutelage.metrics.types import Value
from tutelage.recipe import DataSpec, Recipe, SourceSpec, read_recipe
from tutelage.registry import suggestion
from tutelage.runs import MANIFEST, find_run, read_json, run_folder
from tutelage.tasks import TASKS
from tutelage.tasks.classify import score_of, split_labels
from tutelage.tasks.opening import read_task
from tutelage.taskspec import TASKS as SPECS
from tutelage.taskspec import ChatSpec, ClassifySpec, TaskSpec

LENGTH = "length"  # of the input: rows can be sliced by it without a column
MOST_CHARACTERS = 100  # of a column's value: longer ones are texts, not classes


@dataclass(frozen=True)
class Rows:
    """What is scored. `training` are the references of a run's training rows, for the majority baseline."""

    name: str
    rows: tuple[Row, ...]
    dropped: tuple[Dropped, ...] = ()
    columns: dict[At, dict[str, str]] | None = None
    training: tuple[Value, ...] = ()
    training_rows: tuple[Row, ...] = ()  # a model that is no run learns the label names of its task from them


def recipe_of(model: str) -> Recipe | None:
    """The recipe of a run folder, or None for what is no run."""
    folder = run_folder(model)
    return read_recipe(folder / "recipe.yaml") if folder and (folder / "recipe.yaml").is_file() else None


def spec_of(task: str | None, recipe: Recipe | None, model: str) -> TaskSpec:
    """The task that is evaluated: the one named, of those that the run learnt if it is among them; else the first, else chat."""
    run = run_folder(model)
    folder = run / "model" if run else Path(model)
    known = read_task(folder) or (recipe.task if recipe else None)
    if task is None or (known is not None and known.kind == task):
        return known or ChatSpec()
    if task not in SPECS:
        raise UsageError(f"unknown task `{task}`", where="task", fix=suggestion(task, SPECS))
    return read_task(folder, task) or SPECS[task]()  # type: ignore[return-value]


def precision_of(model: str) -> str:
    """The precision that a run was trained and validated in: its scores are then comparable to those in its log."""
    return str(read_json(find_run(model) / MANIFEST).get("plan", {}).get("precision", "fp32"))


def read_rows(data: str | None, recipe: Recipe | None, spec: TaskSpec, *, most: int = 0) -> Rows:
    """The rows of the file or folder `data`, or without it the run's held-out rows; at most `most`, evenly spread."""

    def accepts(source: SourceSpec | None) -> tuple[type, ...]:
        own = task_of(source)
        return TASKS.get(own.kind).accepts(own)

    def task_of(source: SourceSpec | None) -> TaskSpec:
        return source.task if source and source.task else recipe.task if recipe else spec

    training: tuple[Value, ...] = ()
    if recipe is not None and (recipe.data.train or recipe.data.rows):
        prepared = prepare(recipe.data, seed=recipe.seed, accepts=accepts)
        kinds = {file: task_of(source).kind for file, source in prepared.sources.items()}
        train, held_out = (
            tuple(row for row in part if kinds.get(row.at.source, spec.kind) == spec.kind)
            for part in (prepared.train, prepared.validation)
        )
        training = tuple(value for row in train if (value := reference_of(row, spec)) is not None)
        if data is None:
            if not held_out:
                raise DataError(
                    "this run has no held-out rows of this task",
                    where="data.validation",
                    fix="evaluate with --data FILE",
                )
            rows = _spread(held_out, most)
            return Rows("held-out rows", rows, (), _columns_of_rows(rows, prepared.sources), training)
    if data is None:
        raise UsageError("there is nothing to score", where="data", fix="--data FILE")
    found = prepare(
        DataSpec(train=[SourceSpec(path=data)]), seed=0, accepts=lambda source: TASKS.get(spec.kind).accepts(spec)
    )
    return Rows(data, _spread(found.train, most), found.dropped, columns_of(data), training, found.train)


def columns_of(data: str) -> dict[At, dict[str, str]]:
    """The short values of every row of the files at `data`: what rows can be sliced and grouped by."""
    return {at: values for file in files(data) for at, values in _columns(read(file))}


def _columns_of_rows(rows: Sequence[Row], sources: Mapping[str, SourceSpec]) -> dict[At, dict[str, str]]:
    """The same of these rows alone, from their sources; rows that a recipe holds itself have none."""
    wanted = {row.at for row in rows}
    return {
        at: values
        for file, source in sources.items()
        if any(place.source == file for place in wanted)
        for at, values in _columns(read(file, source.format, source.target))
        if at in wanted
    }


def _columns(items: Iterable[tuple[At, Mapping[str, Any]] | Problem]) -> Iterator[tuple[At, dict[str, str]]]:
    for item in items:
        if isinstance(item, Problem):
            continue  # has been raised when the rows were read
        at, row = item
        short = {
            key: str(value)
            for key, value in row.items()
            if isinstance(value, str | int | float) and len(str(value)) <= MOST_CHARACTERS
        }
        yield at, short


def require_columns(rows: Rows, *, slice: str | None, group: str | None) -> None:
    """A DataError where the rows lack a column that is asked for; before anything is computed."""
    known = sorted({name for values in (rows.columns or {}).values() for name in values})
    why = f"the rows have {', '.join(known[:20])}" if known else "the rows have no further columns"
    problems = [
        Problem(f"no row has a column `{name}`", where, why, suggestion(name, choices))
        for where, name, choices in (("slice", slice, [LENGTH, *known]), ("group", group, known))
        if name is not None and name not in choices
    ]
    if problems:
        raise DataError(problems)


def with_columns(predictions: Sequence[Prediction], rows: Rows, group: str | None) -> list[Prediction]:
    """The predictions with their row's columns, and with the value of the column `group` as their document."""
    columns = rows.columns or {}
    found = []
    for one in predictions:
        values = columns.get(one.at, {})
        found.append(replace(one, columns=values, group=values.get(group, "") if group else one.group))
    return found


def _answer(row: Conversation) -> Value | None:
    return next((message.content for message in reversed(row.messages) if message.role == "assistant"), None)


def _label(row: Labelled) -> Value | None:
    return row.labels[0] if len(row.labels) == 1 and not row.several else row.labels


# What is right of each type of row. A type that is missing here has no majority baseline.
REFERENCES: dict[type, Callable[[Any], Value | None]] = {
    Conversation: _answer, Labelled: _label, Tagged: lambda row: row.tags,
    Question: lambda row: tuple(text for text, _ in row.answers), Pair: lambda row: row.targets, Plain: lambda row: None,
}  # fmt: skip


def reference_of(row: Row, spec: TaskSpec) -> Value | None:
    """The right output of a row as the task writes it, if its type has one."""
    if isinstance(row, Labelled) and isinstance(spec, ClassifySpec):
        row = split_labels(row, spec)
        if spec.num_labels == 1:
            return score_of(row)
    find = REFERENCES.get(type(row))
    return find(row) if find else None


def _spread(rows: tuple[Row, ...], most: int) -> tuple[Row, ...]:
    if most <= 0 or len(rows) <= most:
        return rows
    return tuple(rows[i * len(rows) // most] for i in range(most))
