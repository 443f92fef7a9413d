"""The search for wrong labels in files, and for answers that do not fit: from rows to findings and ranked lists."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tutelage.curate.labels import Example, find_issues
from tutelage.curate.surprise import find_surprises
from tutelage.curate.tags import find_tag_issues
from tutelage.data.formats import FORMATS
from tutelage.data.quality.findings import EXAMPLES, Tally, example
from tutelage.data.quality.kinds import ORDER
from tutelage.data.quality.view import view
from tutelage.data.rows import Tagged
from tutelage.data.sources import read
from tutelage.data.types import Conversation
from tutelage.errors import DataError, Problem
from tutelage.methods.opening import open_model
from tutelage.models.fetch import fetch
from tutelage.models.ref import parse_ref

Say = Callable[[str], None]


@dataclass
class Judged:
    """Rows that can be judged: those with one text and one label, those of tagged words, and conversations."""

    labelled: list[Example] = field(default_factory=list)
    tagged: list[Tagged] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)


@dataclass(frozen=True)
class Judges:
    """The models that judge: an encoder for labels and tags, a chat model for conversations."""

    encoder: str
    chat: str


def rows_of(files: Sequence[str], format: str | None) -> Judged:
    """Every row that can be judged; what cannot be read is the check's business."""
    found = Judged()
    for file in files:
        for item in read(file, format):
            if isinstance(item, Problem):
                continue
            at, row = item
            try:
                seen = view(row, at, format)
                parsed = FORMATS.get(seen.format).parse(row, at) if seen.format in FORMATS else None
            except DataError:
                continue
            if isinstance(parsed, Tagged):
                if parsed.words and not parsed.problems():
                    found.tagged.append(parsed)
            elif isinstance(parsed, Conversation):
                found.conversations.append(parsed)
            elif seen.label is not None and seen.label.strip() and seen.prompt.strip():
                found.labelled.append(Example(at, seen.prompt, seen.label))
    return found


def with_issues(
    result: dict[str, Any], files: Sequence[str], format: str | None, judges: Judges, say: Say
) -> dict[str, Any]:
    """`findings` with what is likely wrong among them, and all of it, ranked: labels and tags as `label_issues`,
    answers that do not fit their prompts as `answer_issues`."""
    rows, tally = rows_of(files, format), Tally()
    if not (rows.labelled or rows.tagged or rows.conversations):
        raise DataError(
            "there is nothing to judge", where=", ".join(files),
            why="no row has a text and a label, tagged words, or a prompt and an answer", fix="leave --labels out",
        )  # fmt: skip
    labels = _label_issues(rows, judges.encoder, tally, say) if rows.labelled or rows.tagged else []
    answers = _answer_issues(rows.conversations, judges.chat, tally, say) if rows.conversations else []
    findings = [*result["findings"], *map(asdict, tally.findings())]
    return {
        "findings": sorted(findings, key=lambda finding: ORDER[finding["kind"]]),
        "label_issues": labels,
        "answer_issues": answers,
    }


def _label_issues(rows: Judged, encoder: str, tally: Tally, say: Say) -> list[dict[str, Any]]:
    folder = Path(encoder) if Path(encoder).is_dir() else fetch(parse_ref(encoder), say=say).path
    issues = [(issue, 0) for issue in find_issues(rows.labelled, folder, say)] if rows.labelled else []
    issues += [(each.issue, each.word) for each in find_tag_issues(rows.tagged, folder, say)] if rows.tagged else []
    for issue, word in issues[:EXAMPLES]:
        what = f"word {word}: " if word else ""
        detail = f"{what}{issue.label!r} has {issue.confidence:.1%}, rather {issue.suggested!r}"
        tally.add("wrong_label", example(issue.at, issue.text, detail))
    if issues:
        tally.counts["wrong_label"] = len(issues)
    return [
        {"file": each.at.source, "row": each.at.row, "text": each.text, "label": each.label,
         "suggested": each.suggested, "confidence": round(each.confidence, 4), **({"word": word} if word else {})}
        for each, word in issues
    ]  # fmt: skip


def _answer_issues(rows: Sequence[Conversation], model: str, tally: Tally, say: Say) -> list[dict[str, Any]]:
    issues = find_surprises(rows, open_model(model, say=say), say)
    for issue in issues[:EXAMPLES]:
        detail = f"{issue.loss:.2f} nats per token after its prompt, {issue.alone:.2f} after none"
        tally.add("surprising_answer", example(issue.at, issue.row.messages[-1].content, detail))
    if issues:
        tally.counts["surprising_answer"] = len(issues)
    return [
        {"file": each.at.source, "row": each.at.row, "answer": each.row.messages[-1].content,
         "loss": round(each.loss, 4), "loss_alone": round(each.alone, 4), "ratio": round(each.ratio, 4)}
        for each in issues
    ]  # fmt: skip
