"""The search for wrong labels in files: from rows to a finding and a ranked list."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tutelage.curate.labels import Example, find_issues
from tutelage.curate.tags import find_tag_issues
from tutelage.data.formats import FORMATS
from tutelage.data.quality.findings import EXAMPLES, Tally, example
from tutelage.data.quality.kinds import ORDER
from tutelage.data.quality.view import view
from tutelage.data.rows import Tagged
from tutelage.data.sources import read
from tutelage.errors import DataError, Problem
from tutelage.models.fetch import fetch
from tutelage.models.ref import parse_ref

Say = Callable[[str], None]
TAGGED = "tagged"


def examples_of(files: Sequence[str], format: str | None) -> tuple[list[Example], list[Tagged]]:
    """Every row with one text and one label, and every row of tagged words; what cannot be read is the check's business."""
    found: list[Example] = []
    tagged: list[Tagged] = []
    for file in files:
        for item in read(file, format):
            if isinstance(item, Problem):
                continue
            at, row = item
            try:
                seen = view(row, at, format)
                parsed = FORMATS.get(seen.format).parse(row, at) if seen.format == TAGGED else None
            except DataError:
                continue
            if isinstance(parsed, Tagged) and parsed.words and not parsed.problems():
                tagged.append(parsed)
            elif seen.label is not None and seen.label.strip() and seen.prompt.strip():
                found.append(Example(at, seen.prompt, seen.label))
    return found, tagged


def with_label_issues(
    result: dict[str, Any], files: Sequence[str], format: str | None, encoder: str, say: Say
) -> dict[str, Any]:
    """`findings` with the likely wrong labels and tags among them, and all of those, ranked, as `label_issues`."""
    examples, tagged = examples_of(files, format)
    if not examples and not tagged:
        raise DataError(
            "there are no labels to judge", where=", ".join(files), why="no row has a text and a label, or tagged words",
            fix="leave --labels out; for conversations there is no such search yet",
        )  # fmt: skip
    folder = Path(encoder) if Path(encoder).is_dir() else fetch(parse_ref(encoder), say=say).path
    issues = [(issue, 0) for issue in find_issues(examples, folder, say)] if examples else []
    issues += [(each.issue, each.word) for each in find_tag_issues(tagged, folder, say)] if tagged else []
    tally = Tally()
    for issue, word in issues[:EXAMPLES]:
        what = f"word {word}: " if word else ""
        detail = f"{what}{issue.label!r} has {issue.confidence:.1%}, rather {issue.suggested!r}"
        tally.add("wrong_label", example(issue.at, issue.text, detail))
    if issues:
        tally.counts["wrong_label"] = len(issues)
    findings = [*result["findings"], *map(asdict, tally.findings())]
    ranked = [
        {"file": each.at.source, "row": each.at.row, "text": each.text, "label": each.label,
         "suggested": each.suggested, "confidence": round(each.confidence, 4), **({"word": word} if word else {})}
        for each, word in issues
    ]  # fmt: skip
    return {"findings": sorted(findings, key=lambda finding: ORDER[finding["kind"]]), "label_issues": ranked}
