"""The verb `data review`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.data.annotate import Item, read_csv, walk, write_csv
from tutelage.data.decisions import read_decisions, row_key, write_decisions
from tutelage.data.quality.check import Source, check
from tutelage.data.quality.findings import Finding
from tutelage.data.quality.view import view
from tutelage.data.sources import files, read
from tutelage.errors import DataError, MissingInputError, Problem, UsageError
from tutelage.runs import read_json

Say = Callable[[str], None]


def quiet(text: str) -> None:
    """Hear a line and do nothing with it."""


def data_review(
    file: str,
    *,
    decisions: str = "decisions.jsonl",
    labels: str | None = None,
    kinds: str | None = None,
    flagged: str | None = None,
    most: int = 1000,
    to_csv: str | None = None,
    from_csv: str | None = None,
    say: Say = quiet,
) -> dict[str, Any]:
    """Go through flagged rows, or label those without a label; returns how many were decided and how many are left.

    Every decision is written at once. It is keyed by what the row holds, so it outlives new rows and another order.
    """
    known = read_decisions(decisions) if Path(decisions).is_file() else {}
    names = [name.strip() for name in (labels or "").split(",") if name.strip()]
    items = _items(file, names, kinds, flagged, most, say)
    if to_csv is not None:
        write_csv(to_csv, items, known)
        return {"rows": len(items), "csv": to_csv, "next": f"fill in `decision`, then --from-csv {to_csv}"}
    before = len(known)
    if from_csv is not None:
        if not Path(from_csv).is_file():
            raise MissingInputError("there is no such CSV file", where=from_csv, fix="write it with --to-csv")
        known |= read_csv(from_csv, items)
        write_decisions(decisions, known.values())
    else:
        for decision in walk([item for item in items if row_key(item.row) not in known], names, _ask, _tell):
            known[decision.key] = decision
            write_decisions(decisions, known.values())
    left = sum(row_key(item.row) not in known for item in items)
    return {
        "decided": len(known) - before,
        "left": left,
        "decisions": decisions,
        "next": f"data: {{decisions: {decisions}}}",
    }


def _ask(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else "q"


def _tell(text: str) -> None:
    print("".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text), file=sys.stderr)


def _items(file: str, labels: list[str], kinds: str | None, flagged: str | None, most: int, say: Say) -> list[Item]:
    """The rows to look at in the order of the file; without a label set those that a check flags."""
    sources = [Source(each) for each in files(file)]
    why = {} if labels and not flagged else _flagged(sources, kinds, flagged, say)
    found: list[Item] = []
    for source in sources:
        for item in read(source.file):
            if isinstance(item, Problem) or len(found) >= most:
                continue
            at, row = item
            reason, suggested = why.get((at.source, at.row), ("", ""))
            try:
                seen = view(row, at)
            except DataError:
                continue  # a row that breaks its format is repaired in the file, or dropped
            if reason or (labels and not flagged and not seen.target.strip()):
                found.append(Item(at, row, seen, reason, suggested))
    return found


def _flagged(
    sources: list[Source], kinds: str | None, flagged: str | None, say: Say
) -> dict[tuple[str, int], tuple[str, str]]:
    """Why a row at (file, number) is to be looked at, and the label that is suggested for it."""
    wanted = {kind.strip() for kind in kinds.split(",")} if kinds else None
    if flagged is not None:
        checked = read_json(Path(flagged))
        labels, answers = checked.get("label_issues"), checked.get("answer_issues", [])
        if not isinstance(labels, list) or not isinstance(answers, list):
            raise UsageError(
                "this is no list of rows to look at", where=flagged, fix="tutelage data check FILE --labels --json"
            )
        return _listed(labels, answers)
    found: dict[tuple[str, int], tuple[str, str]] = {}
    findings: tuple[Finding, ...] = check(sources, examples=sys.maxsize, say=say).findings
    for finding in findings:
        if finding.kind not in (wanted or {finding.kind}) or (wanted is None and finding.severity == "info"):
            continue
        for example in finding.examples:
            place = example["file"], example["row"]
            earlier = found[place][0] + "; " if place in found else ""
            found[place] = (f"{earlier}{finding.kind} {example.get('detail', '')}".strip(), "")
            if "of" in example and finding.kind == "contradiction":
                found.setdefault((example["of"]["file"], example["of"]["row"]), (finding.kind, ""))
    return found


def _listed(labels: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[tuple[str, int], tuple[str, str]]:
    """What is likely wrong, by row; a row's doubted tags are all named, and none can be set as its label."""
    found: dict[tuple[str, int], tuple[str, str]] = {}
    for each in answers:
        found[each["file"], each["row"]] = (
            f"surprising answer, {each['ratio']:.2f} times what it is without a prompt",
            "",
        )
    for each in labels:
        place = each["file"], each["row"]
        if "word" in each:
            earlier = found[place][0] + "; " if place in found else ""
            why = f"word {each['word']} is likely not {each['label']}, rather {each['suggested']}"
            found[place] = (earlier + why, "")
        else:
            found[place] = ("likely wrong label", str(each["suggested"]))
    return found
