"""The token contract: what will be trained, counted, shown and checked before training starts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutelage.data.types import Conversation, Dropped
from tutelage.encode.examined import Check, Examined, Texts
from tutelage.encode.rows import Rows
from tutelage.encode.template import ROLES, Template
from tutelage.encode.types import Encoded
from tutelage.errors import CheckFailedError


@dataclass(frozen=True, slots=True)
class Fitted:
    """Encoded rows that respect `max_tokens`, and what that cost."""

    rows: Sequence[Encoded]
    dropped: tuple[Dropped, ...]
    over_length: int
    cut: int
    encoded: int


@dataclass(frozen=True, slots=True)
class Contract:
    """Counts and checks over all training rows."""

    rows: int
    tokens: int
    target_tokens: int
    roles: dict[str, int]
    over_length: int
    over_length_share: float
    truncated: int
    longest: int
    added_by_template: str
    checks: tuple[Check, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """The contract as contract.json holds it, without examples."""
        names = (
            "rows", "tokens", "target_tokens", "roles", "over_length", "over_length_share", "truncated", "longest",
            "added_by_template",
        )  # fmt: skip
        checks = [
            {"name": c.name, "passed": c.passed, "detail": c.meaning + (f": {c.violations} violations" if c.violations else ""),
             "count": c.count, "violations": c.violations, "problems": [str(p) for p in c.problems[:5]]}
            for c in self.checks
        ]  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "checks": checks}

    def enforce(self, allow: Iterable[str]) -> None:
        """Raise with every violation, except of the checks named in `allow`."""
        failed = [check for check in self.checks if not check.passed and check.name not in set(allow)]
        if failed:
            problems = [problem for check in failed for problem in check.problems]
            raise CheckFailedError(problems, total=sum(check.violations for check in failed))


def fit(rows: Sequence[Encoded], max_tokens: int, over_length: str) -> Fitted:
    """The rows that fit; longer ones are dropped, or cut at the end (and dropped if no target is left)."""
    rows = Rows.of(rows)
    lengths, keep = rows.lengths, np.ones(len(rows), dtype=bool)
    dropped: list[Dropped] = []
    long = np.flatnonzero(lengths > max_tokens).tolist()
    for i in long:
        if over_length == "drop":
            reason, detail = "over_length", f"{lengths[i]} tokens, max_tokens is {max_tokens}"
        elif not rows[i].weights[1:max_tokens].any():
            reason, detail = "no_target_after_cut", f"its first target lies behind token {max_tokens}"
        else:
            continue
        keep[i] = False
        dropped.append(Dropped(reason, rows.at(i), detail))
    cut = len(long) - len(dropped)
    return Fitted(rows.choose(keep, max_tokens), tuple(dropped), len(long), cut, len(rows))


def examine(template: Template, conversations: Iterable[Conversation], fitted: Fitted) -> Contract:
    """Count and check everything that will be trained."""
    rows = Rows.of(fitted.rows)
    found, texts = Examined(template, rows), Texts(template)
    for block in rows.blocks():
        found.add(block)
    for conversation in conversations:
        texts.add(conversation)
    checks = (
        found.end_of_turn.check(), found.has_target.check(), found.no_padding.check(), found.one_bos.check(),
        texts.one_template.check(), texts.shows_tools.check(), texts.same.check(),
        Check("prompt_is_prefix", "the prompt at inference is token-identical to the training prefix", len(rows)),
    )  # fmt: skip
    return Contract(
        rows=len(rows),
        tokens=int(rows.lengths.sum()),
        target_tokens=found.target_tokens,
        roles={role: int(n) for role, n in sorted(zip(ROLES, found.roles)) if n},
        over_length=fitted.over_length,
        over_length_share=fitted.over_length / max(1, fitted.encoded),
        truncated=fitted.cut,
        longest=int(rows.lengths.max(initial=0)),
        added_by_template=texts.added or "",
        checks=checks,
    )


def trained_runs(row: Encoded) -> list[tuple[int, int]]:
    """[start, stop) of each unbroken stretch of trained tokens: one per trained turn."""
    trained = np.concatenate(([0], (row.weights != 0).astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(trained))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))
