"""Review lists: the rows to look at, as questions in a terminal or as a CSV file, and what a person decided."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.decisions import Decision, row_key
from tutelage.data.formats.format import RowDict
from tutelage.data.jsonvalue import FaultError, parse
from tutelage.data.quality.view import LABEL_KEYS, View
from tutelage.data.types import At
from tutelage.errors import DataError, Problem
from tutelage.runs import write_text

HEAD = ("key", "file", "row", "why", "text", "answer", "label", "suggested", "decision", "new_label", "new_row", "note")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
CELL = 2000  # characters of a text that a CSV cell shows


@dataclass(frozen=True, slots=True)
class Item:
    """A row to look at, why, and the label that is suggested for it."""

    at: At
    row: RowDict
    seen: View
    why: str = ""
    suggested: str = ""

    @property
    def label_key(self) -> str:
        """Under which key its label stands, or would stand."""
        return next((key for key in LABEL_KEYS if key in self.row), "label")


Ask = Callable[[str], str]
Tell = Callable[[str], None]
ANSWERS = "k keep · d drop · r relabel · f fix · s skip · q stop"


def walk(items: Sequence[Item], labels: Sequence[str], ask: Ask, tell: Tell) -> Iterator[Decision]:
    """Ask about each item in turn; a decision is given as soon as it is made, so that stopping loses nothing."""
    for number, item in enumerate(items, 1):
        for line in shown(item, number, len(items), labels):
            tell(line)
        unlabelled = bool(labels) and not item.seen.target.strip()
        while True:
            answer = ask("label, or s skip · d drop · q stop: " if unlabelled else f"{ANSWERS}: ").strip()
            if answer == "q":
                return
            if answer == "s":
                break
            decision, complaint = _decision(item, answer, labels, unlabelled, ask)
            if decision:
                yield decision
                break
            tell(complaint)


def shown(item: Item, number: int, total: int, labels: Sequence[str]) -> Iterator[str]:
    """An item as lines."""
    yield f"── {number} of {total}: {item.at}{'  ' + item.why if item.why else ''}"
    yield item.seen.prompt[:CELL]
    if item.seen.answer is not None:
        yield f"→ {item.seen.answer[:CELL]}"
    if item.seen.label is not None:
        yield f"label: {item.seen.label}" + (f"   suggested: {item.suggested}" if item.suggested else "")
    if labels:
        yield "labels: " + ", ".join(f"{index} {label}" for index, label in enumerate(labels, 1))


def _decision(
    item: Item, answer: str, labels: Sequence[str], unlabelled: bool, ask: Ask
) -> tuple[Decision | None, str]:
    key = row_key(item.row)
    if answer == "d":
        return Decision(key, "drop"), ""
    if unlabelled:
        label = chosen(answer, labels)
        return (
            (Decision(key, "relabel", label=label, label_key=item.label_key), "")
            if label
            else (None, f"no label {answer!r}")
        )
    if answer == "k":
        return Decision(key, "keep"), ""
    if answer == "r":
        label = chosen(ask(f"new label [{item.suggested}]: ").strip() or item.suggested, labels)
        return (
            (Decision(key, "relabel", label=label, label_key=item.label_key), "") if label else (None, "no such label")
        )
    if answer == "f":
        try:
            row = parse(ask("the whole row as JSON: "))
        except FaultError as fault:
            return None, f"{fault.what}: {fault.why}"
        return (Decision(key, "fix", row=row), "") if isinstance(row, dict) and row else (None, "a row is an object")
    return None, f"one of: {ANSWERS}"


def chosen(answer: str, labels: Sequence[str]) -> str | None:
    """The label that `answer` means: its number or its name; any name where no labels are given."""
    if not labels:
        return answer or None
    if answer.isdigit() and 1 <= int(answer) <= len(labels) and answer not in labels:
        return labels[int(answer) - 1]
    return answer if answer in labels else None


def write_csv(path: str, items: Sequence[Item], decided: dict[str, Decision]) -> None:
    """The list as CSV for a spreadsheet; cells that it would take for formulas begin with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEAD)
    for item in items:
        key = row_key(item.row)
        known = decided.get(key)
        cells = [
            key, item.at.source, item.at.row, item.why, item.seen.prompt[:CELL], (item.seen.answer or "")[:CELL],
            item.seen.label or "", item.suggested, known.decision if known else "", (known.label if known else "") or "",
            "", known.note if known else "",
        ]  # fmt: skip
        writer.writerow([_harmless(str(cell)) for cell in cells])
    write_text(Path(path), out.getvalue())


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def read_csv(path: str, items: Sequence[Item]) -> dict[str, Decision]:
    """The decisions in a CSV file that `write_csv` wrote and a person filled in; every faulty line is reported."""
    known = {row_key(item.row): item for item in items}
    found: dict[str, Decision] = {}
    problems: list[Problem] = []
    with open(path, encoding="utf-8-sig", newline="", errors="replace") as file:
        try:
            for number, cells in enumerate(csv.DictReader(file), 2):
                decision = (cells.get("decision") or "").strip().lower()
                if decision and (cells.get("key") or "") in known:
                    made = _from_cells(decision, cells, known[cells["key"]])
                    if isinstance(made, Decision):
                        found[made.key] = made
                    else:
                        problems.append(Problem(made, f"{path}:{number}", fix="keep, drop, fix or relabel"))
        except csv.Error as error:
            problems.append(Problem("this is not CSV", path, str(error), "save it as CSV, UTF-8"))
    if problems:
        raise DataError(problems)
    return found


def _from_cells(decision: str, cells: dict[str, Any], item: Item) -> Decision | str:
    key, note = row_key(item.row), (cells.get("note") or "").removeprefix("'")
    if decision in ("keep", "drop"):
        return Decision(key, "keep" if decision == "keep" else "drop", note=note)
    if decision == "relabel":
        label = (cells.get("new_label") or "").strip().removeprefix("'") or item.suggested
        return (
            Decision(key, "relabel", label=label, label_key=item.label_key, note=note)
            if label
            else "`new_label` is empty"
        )
    if decision == "fix":
        try:
            row = parse(cells.get("new_row") or "")
        except FaultError as fault:
            return f"`new_row` is no row: {fault.what}"
        return Decision(key, "fix", row=row, note=note) if isinstance(row, dict) and row else "`new_row` is no object"
    return f"unknown decision {decision!r}"
