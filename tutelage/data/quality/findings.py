"""Findings: what a check found, how often, and where first."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tutelage.data.quality.kinds import KINDS, ORDER
from tutelage.data.types import At

EXAMPLES = 10
SNIPPET = 96  # characters of a text that an example shows


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of fault. Each example has `file` and `row`, most a `text` and what was found in it (`detail`)."""

    kind: str
    severity: str
    title: str
    count: int
    examples: tuple[dict[str, Any], ...]
    fix: str
    prepare: str
    recipe: str


def example(at: At, text: str = "", detail: str = "", **more: object) -> dict[str, Any]:
    """An example at a row; empty parts are left out."""
    shown = {"text": snippet(text), "detail": detail}
    return {"file": at.source, "row": at.row, **{key: value for key, value in shown.items() if value}, **more}


def snippet(text: str) -> str:
    """The beginning of `text` on one line."""
    line = " ".join(text[: 2 * SNIPPET].split())
    return line if len(line) <= SNIPPET else line[: SNIPPET - 1] + "…"


@dataclass
class Tally:
    """Counts of findings with the first examples of each; tallies of parts add up to the tally of the whole."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    most: int = EXAMPLES  # examples of a kind that are kept

    def add(self, kind: str, example: dict[str, Any], count: int = 1) -> None:
        """Count a finding; its example is kept if it is one of the first."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        kept = self.examples.setdefault(kind, [])
        if len(kept) < self.most:
            kept.append(example)

    def merge(self, later: "Tally") -> None:
        """Add the tally of rows that come after these."""
        for kind, count in later.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            kept = self.examples.setdefault(kind, [])
            kept += later.examples[kind][: self.most - len(kept)]

    def findings(self) -> Iterator[Finding]:
        """The findings in the order of the table of kinds."""
        for kind in sorted(self.counts, key=ORDER.__getitem__):
            known = KINDS[kind]
            yield Finding(
                kind, known.severity, known.title, self.counts[kind], tuple(self.examples[kind]),
                known.fix, known.prepare, known.recipe,
            )  # fmt: skip
