"""The search for wrong labels in files: from rows to a finding and a ranked list."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tutelage.curate.labels import Example, find_issues
from tutelage.data.quality.findings import EXAMPLES, Tally, example
from tutelage.data.quality.kinds import ORDER
from tutelage.data.quality.view import view
from tutelage.data.sources import read
from tutelage.errors import DataError, Problem
from tutelage.models.fetch import fetch
from tutelage.models.ref import parse_ref

Say = Callable[[str], None]


def examples_of(files: Sequence[str], format: str | None) -> list[Example]:
    """Every row with one text and one label; rows that cannot be read are the check's business."""
    found: list[Example] = []
    for file in files:
        for item in read(file, format):
            if isinstance(item, Problem):
                continue
            at, row = item
            try:
                seen = view(row, at, format)
            except DataError:
                continue
            if seen.label is not None and seen.label.strip() and seen.prompt.strip():
                found.append(Example(at, seen.prompt, seen.label))
    return found


def with_label_issues(
    result: dict[str, Any], files: Sequence[str], format: str | None, encoder: str, say: Say
) -> dict[str, Any]:
    """`findings` with the likely wrong labels among them, and all of those, ranked, as `label_issues`."""
    examples = examples_of(files, format)
    if not examples:
        raise DataError(
            "there are no labels to judge", where=", ".join(files), why="no row has a text and a label",
            fix="leave --labels out; for conversations there is no such search yet",
        )  # fmt: skip
    folder = Path(encoder) if Path(encoder).is_dir() else fetch(parse_ref(encoder), say=say).path
    issues = find_issues(examples, folder, say)
    tally = Tally()
    for issue in issues[:EXAMPLES]:
        detail = f"{issue.label!r} has {issue.confidence:.1%}, rather {issue.suggested!r}"
        tally.add("wrong_label", example(issue.at, issue.text, detail))
    if issues:
        tally.counts["wrong_label"] = len(issues)
    findings = [*result["findings"], *map(asdict, tally.findings())]
    ranked = [
        {"file": each.at.source, "row": each.at.row, "text": each.text, "label": each.label,
         "suggested": each.suggested, "confidence": round(each.confidence, 4)}
        for each in issues
    ]  # fmt: skip
    return {"findings": sorted(findings, key=lambda finding: ORDER[finding["kind"]]), "label_issues": ranked}
