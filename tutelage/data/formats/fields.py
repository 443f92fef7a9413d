"""Typed fields of a row: each is read with its type, or is a problem with its place."""

from collections.abc import Callable
from typing import TypeVar

from tutelage.data.formats.format import RowDict, RowError
from tutelage.data.jsonvalue import shown, type_name
from tutelage.data.types import At
from tutelage.errors import Problem

T = TypeVar("T")


def required_texts(row: RowDict, at: At, *names: str) -> list[str]:
    """The text of each named field; those missing or of another type are reported together."""
    problems = [problem for name in names if (problem := _text_problem(row, at, name))]
    if problems:
        raise RowError(problems)
    return [str(row[name]) for name in names]


def optional_text(row: RowDict, at: At, name: str) -> str:
    """The text of a field, empty where it is absent or null."""
    return "" if row.get(name) is None else required_texts(row, at, name)[0]


def optional_list(row: RowDict, at: At, name: str) -> list[object]:
    """The list in a field, empty where it is absent or null."""
    return [] if row.get(name) is None else required_list(row, at, name)


def required_list(row: RowDict, at: At, name: str) -> list[object]:
    """The list in a field."""
    value = row.get(name)
    if isinstance(value, list):
        return value
    raise RowError([wrong_type(row, at, name, "a list")])


def every(items: list[object], read: Callable[[int, object], T]) -> tuple[T, ...]:
    """`read(index, item)` of every item; the problems of all of them are raised together."""
    results: list[T] = []
    problems: list[Problem] = []
    for index, item in enumerate(items):
        try:
            results.append(read(index, item))
        except RowError as error:
            problems += error.problems
    if problems:
        raise RowError(problems)
    return tuple(results)


def wrong_type(row: RowDict, at: At, name: str, expected: str, label: str = "") -> Problem:
    """The problem of a field that is missing or not `expected`."""
    label = label or name
    if name not in row:
        keys = ", ".join(shown(key) for key in list(row)[:12])
        return Problem(f"`{label}` is missing", str(at), f"the keys here are {keys}", f"add `{name}`")
    value = row[name]
    why = f"it is {type_name(value)}" + ("" if value is None else f": {shown(value)}")
    return Problem(f"`{label}` must be {expected}", str(at), why, f"make it {expected}, or remove the row")


def join(instruction: str, context: str) -> str:
    """An instruction and the text it is about, with a blank line between; blank parts fall away."""
    return "\n\n".join(part for part in (instruction, context) if part.strip())


def _text_problem(row: RowDict, at: At, name: str) -> Problem | None:
    return None if isinstance(row.get(name), str) else wrong_type(row, at, name, "text")
