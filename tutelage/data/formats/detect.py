"""Which format the rows of one file have."""

import difflib
from collections.abc import Sequence

from tutelage.data.formats import FORMATS, Format
from tutelage.data.formats.format import RowDict
from tutelage.data.formats.refused import REFUSALS
from tutelage.data.jsonvalue import shown
from tutelage.data.rows import Labelled, Pair, Plain, Preference, Question, Tagged
from tutelage.data.types import At, Conversation
from tutelage.errors import DataError, Problem

# Keys that hold content in one format or another: one that the detected format does not read would silently be lost.
CONTENT = frozenset(
    {
        "instruction", "input", "output", "context", "response", "prompt", "completion", "messages", "conversations",
        "system", "history", "tools", "functions", "instances", "chosen", "rejected", "images", "videos", "audios",
    }
)  # fmt: skip


def detect(rows: Sequence[tuple[At, RowDict]]) -> Format:
    """The one format that the rows of a file have; a row that no format claims is left to its `parse` to report."""
    first: dict[str, At] = {}
    formats = [FORMATS.get(name) for name in FORMATS]
    for at, row in rows:
        names = [known.name for known in formats if known.matches(row)]
        if len(names) > 1:
            raise _ambiguous(at, names)
        for name in names:
            first.setdefault(name, at)
    if not first:
        raise _unknown(rows)
    if len(first) > 1:
        raise _mixed(first)
    (name,) = first
    found = FORMATS.get(name)
    problems = _unread(rows, found)
    if problems:
        raise DataError(problems)
    return found


# What rows of a kind are, and how they are trained on.
KINDS: dict[type, tuple[str, str]] = {
    Conversation: ("questions with answers to learn", "task: chat"),
    Labelled: (
        "texts with a label",
        "task: classify (or write rows of `prompt` and `response`, with the label in words)",
    ),
    Preference: ("pairs of a chosen and a rejected text", "task: {kind: classify, num_labels: 1}"),
    Tagged: ("tokens with tags (CoNLL, named entities)", "task: tag"),
    Question: ("SQuAD rows, whose answers are spans of a context", "task: extract"),
    Pair: ("pairs of a source and a target text", "task: seq2seq"),
    Plain: ("plain texts without an answer", "task: text"),
}


def check_accepted(found: Format, accepts: tuple[type, ...], at: At) -> None:
    """Refuse rows of a kind that the task does not read, and name the task that does."""
    if found.kind in accepts:
        return
    what, task = KINDS[found.kind]
    wanted = " or ".join(KINDS[kind][0] for kind in accepts)
    raise DataError(f"these are {what}", where=str(at), why=f"this task reads {wanted}", fix=task)


def _ambiguous(at: At, names: list[str]) -> DataError:
    return DataError(
        f"the row has the keys of two formats: {' and '.join(names)}",
        where=str(at),
        why="what one of them would read the other would leave out",
        fix=f"name the format in the recipe: {{path: {at.source}, format: {names[0]}}}",
    )


def _mixed(first: dict[str, At]) -> DataError:
    found = sorted(first.items(), key=lambda item: item[1])
    return DataError(
        f"the file mixes formats: {' and '.join(name for name, _ in found)}",
        where=str(found[1][1]),
        why="; ".join(f"the first {name} row is {at}" for name, at in found),
        fix="put each format into a file of its own",
    )


def _unknown(rows: Sequence[tuple[At, RowDict]]) -> DataError:
    if not rows:
        return DataError("there are no rows to detect a format from", fix="name a file with rows")
    at, row = rows[0]
    for refusal in REFUSALS:
        if refusal.recognises(row):
            return DataError(refusal.what, where=str(at), why=refusal.why, fix=refusal.fix)
    keys = list(dict.fromkeys(key for _, row in rows[:100] for key in row))
    known = sorted({field for name in FORMATS for field in FORMATS.get(name).fields})
    near = {key: difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.7) for key in keys if key not in known}
    meant = [f"for {shown(key)} did you mean `{found[0]}`?" for key, found in near.items() if found]
    formats = "; ".join(f"{name} ({', '.join(sorted(FORMATS.get(name).sample))})" for name in FORMATS)
    return DataError(
        "the rows have no known format",
        where=str(at),
        why=f"their keys are {', '.join(shown(key) for key in keys[:20])}",
        fix=" ".join([*meant, f"known formats: {formats}"]),
    )


def _unread(rows: Sequence[tuple[At, RowDict]], found: Format) -> list[Problem]:
    first: dict[str, At] = {}
    unread = CONTENT - found.fields
    for at, row in rows:
        for key in row.keys() & unread:
            if row[key] not in (None, "", []):
                first.setdefault(key, at)
    return [
        Problem(
            f"the format {found.name} does not read `{key}`",
            str(at),
            "it would be left out of every row",
            f"remove the key, or confirm it in the recipe: {{path: {at.source}, format: {found.name}}}",
        )
        for key, at in sorted(first.items())
    ]
