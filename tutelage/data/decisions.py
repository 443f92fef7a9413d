"""Decisions that a person made about rows: a file keyed by what the rows hold, so that order and place do not matter."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tutelage.data.formats.format import RowDict
from tutelage.data.jsonvalue import FaultError, parse
from tutelage.errors import DataError, MissingInputError, Problem
from tutelage.runs import write_text

Verdict = Literal["keep", "drop", "fix", "relabel"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with the row whose `key` this is: `row` is its corrected form (fix), `label` its label (relabel)."""

    key: str
    decision: Verdict
    row: RowDict | None = None
    label: str | None = None
    label_key: str | None = None
    note: str = ""

    def applied(self, row: RowDict) -> RowDict | None:
        """The row after the decision; None where it is dropped."""
        if self.decision == "drop":
            return None
        if self.decision == "fix" and self.row is not None:
            return self.row
        return {**row, self.label_key: self.label} if self.decision == "relabel" and self.label_key else row


def row_key(row: RowDict) -> str:
    """The key of what a row holds, without the place it is said to come from."""
    content = {name: value for name, value in row.items() if name != "_at"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def read_decisions(path: str | None) -> dict[str, Decision]:
    """The decisions in the file at `path`, the last one about each row; every broken line is reported."""
    if path is None:
        return {}
    if not Path(path).is_file():
        raise MissingInputError("there is no such file of decisions", where=path, fix="tutelage data review FILE")
    found: dict[str, Decision] = {}
    problems: list[Problem] = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    decision = _decision(parse(line))
                    found[decision.key] = decision
                except FaultError as fault:
                    problems.append(Problem(fault.what, f"{path}:{number}", fault.why, fault.fix))
    if problems:
        raise DataError(problems)
    return found


def write_decisions(path: str, decisions: Iterable[Decision]) -> None:
    """Write the file anew, in the order of keys: the same decisions are the same bytes."""
    lines = [
        json.dumps({key: value for key, value in asdict(each).items() if value not in (None, "")}, ensure_ascii=False)
        for each in sorted(decisions, key=lambda each: each.key)
    ]
    write_text(Path(path), "".join(f"{line}\n" for line in lines))


def _decision(value: Any) -> Decision:
    if not isinstance(value, dict) or not isinstance(value.get("key"), str):
        raise FaultError("this is not a decision", "it has no `key`", "write the file with tutelage data review")
    if value.get("decision") not in get_args(Verdict):
        raise FaultError("unknown decision", repr(value.get("decision")), f"one of: {', '.join(get_args(Verdict))}")
    if value["decision"] == "fix" and not isinstance(value.get("row"), dict):
        raise FaultError("a fix without a corrected `row`", fix="add it, or decide otherwise")
    if value["decision"] == "relabel" and not (isinstance(value.get("label"), str) and value.get("label_key")):
        raise FaultError("a relabelling without `label` and `label_key`", fix="add them, or decide otherwise")
    names = ("key", "decision", "row", "label", "label_key", "note")
    return Decision(**{name: value[name] for name in names if name in value})
