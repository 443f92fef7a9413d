"""Probes of what a model knows besides its task: the shipped ones, or files of the user, as typed rows.

What a row is, its fields say: `text`; `query`, `choices` and `gold`; `context` and `continuation`; `prompt` and `check`;
`prompt` alone. In a .txt file every line with words is a text.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from tutelage.data.types import At
from tutelage.errors import DataError, MissingInputError, Problem

MIN_WORDS = 5  # of a line of a .txt file: headings and blank lines are no text to score


@dataclass(frozen=True, slots=True)
class Text:
    """A text whose tokens are scored, all or (with a context) those behind it."""

    at: At
    text: str
    context: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A beginning with its possible continuations, of which number `gold` is right."""

    at: At
    query: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt; `check` says which format its answer must have, if any."""

    at: At
    prompt: str
    check: Mapping[str, Any] = field(default_factory=dict)


Probe = Text | Choice | Request


def shipped() -> dict[str, list[Probe]]:
    """The probes of this package, by name."""
    folder = files("tutelage.evaluate") / "probes"
    return {
        entry.name.removesuffix(".jsonl"): list(_rows(entry.name, entry.read_text(encoding="utf-8")))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".jsonl")
    }


def local(folder: str, most: int) -> dict[str, list[Probe]]:
    """The probes in the .jsonl and .txt files of `folder` and below, at most `most` rows of each, evenly spread."""
    root = Path(folder)
    paths = [root] if root.is_file() else sorted([*root.rglob("*.jsonl"), *root.rglob("*.txt")])
    if not paths:
        raise MissingInputError("there are no probes here", where=folder, fix="name a folder with .jsonl or .txt files")
    found = {}
    for path in paths:
        rows = list(_rows(str(path), path.read_text(encoding="utf-8")))
        found[path.stem] = spread(rows, most)
    return found


def spread(rows: list[Probe], most: int) -> list[Probe]:
    """At most `most` of the rows, evenly spread."""
    return [rows[i * len(rows) // most] for i in range(most)] if len(rows) > most else rows


def _rows(name: str, text: str) -> Iterator[Probe]:
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        at = At(name, number)
        if name.endswith(".txt"):
            if len(line.split()) >= MIN_WORDS:
                yield Text(at, line.strip())
        elif line.strip():
            try:
                yield _row(at, json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                problems.append(Problem("this is no probe", str(at), str(error), "see docs/evaluation.md"))
    if problems:
        raise DataError(problems)


def _row(at: At, values: dict[str, Any]) -> Probe:
    if "choices" in values:
        choices = tuple(str(choice) for choice in values["choices"])
        gold = int(values["gold"])
        choices[gold]  # an index that is out of range is no probe
        return Choice(at, str(values["query"]), choices, gold)
    if "continuation" in values:
        return Text(at, str(values["continuation"]), str(values["context"]))
    if "text" in values:
        return Text(at, str(values["text"]))
    return Request(at, str(values["prompt"]), values.get("check", {}))
