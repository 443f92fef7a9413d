"""What the files of a run folder say, read once. Files that a run has not written yet are simply empty here."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tutelage.errors import MissingInputError, OutputError
from tutelage.report.words import number
from tutelage.runs import MANIFEST, history, read_json

LISTED_DROPS = 50


@dataclass(frozen=True, slots=True)
class Facts:
    """One run folder. `method` and `task` are those parts of the recipe; `drops` are the first lines of dropped.jsonl."""

    name: str
    manifest: dict[str, Any]
    events: list[dict[str, Any]]
    contract: dict[str, Any]
    samples: list[dict[str, Any]]
    recipe: str
    method: dict[str, Any]
    task: dict[str, Any]
    drops: list[dict[str, Any]]
    dropped: int

    def part(self, *keys: str) -> dict[str, Any]:
        """The mapping at `keys` of the manifest, empty where there is none."""
        value: Any = self.manifest
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def of(self, event: str, *keys: str) -> list[dict[str, Any]]:
        """The events of one kind that have finite numbers as step and at `keys`, by rising step.

        A run that was killed before its first checkpoint begins again at step 1: what is redone replaces the old.
        """
        kept: list[dict[str, Any]] = []
        for one in self.events:
            if one["event"] == event and all(number(one.get(key)) is not None for key in ("step", *keys)):
                while kept and kept[-1]["step"] >= one["step"]:
                    kept.pop()
                kept.append(one)
        return kept


def read(run: Path) -> Facts:
    """The facts of the run folder `run`; only its manifest must be there."""
    if not (run / MANIFEST).is_file():
        raise MissingInputError(
            "this is not a run folder", where=str(run), why=f"it has no {MANIFEST}", fix="tutelage runs"
        )
    drops, dropped = _drops(run / "dropped.jsonl")
    recipe = run / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else ""
    return Facts(
        name=run.resolve().name,
        manifest=_document(run / MANIFEST, dict),
        events=history(run),
        contract=_document(run / "contract.json", dict),
        samples=[one for one in _document(run / "samples.json", list) if isinstance(one, dict)],
        recipe=text,
        method=_part(text, "method"),
        task=_part(text, "task"),
        drops=drops,
        dropped=dropped,
    )


def listed(value: object) -> list[Any]:
    """`value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def _document(path: Path, kind: type[Any]) -> Any:
    if not path.is_file():
        return kind()
    value = read_json(path)
    if not isinstance(value, kind):
        raise OutputError("this file of the run folder is damaged", where=str(path), why=f"it holds no {kind.__name__}")
    return value


def _part(recipe: str, name: str) -> dict[str, Any]:
    """The recipe's method or task; a recipe that cannot be read is still shown as text, so they are merely unknown."""
    try:
        values = yaml.safe_load(recipe)
    except yaml.YAMLError:
        return {}
    part = values.get(name) if isinstance(values, dict) else None
    return part if isinstance(part, dict) else {"kind": part} if isinstance(part, str) else {}


def _drops(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The first dropped rows, and how many lines there are."""
    shown: list[dict[str, Any]] = []
    lines = 0
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                lines += bool(line.strip())
                if len(shown) < LISTED_DROPS and line.strip():
                    shown.append(_drop(line))
    return shown, lines


def _drop(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"reason": "this line of dropped.jsonl cannot be read"}
