"""Several tasks in one model: each source's rows go through a task of their own, and one head learns them all.

So that a two-token label does not drown in a hundred-token summary, a source with `loss: examples` gives each of its rows
the weight 1 in a step's loss, whatever it trains.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tutelage.data.types import Dropped, Row
from tutelage.encode.contract import Contract, Fitted
from tutelage.encode.examined import Check
from tutelage.encode.template import Template
from tutelage.encode.types import Encoded
from tutelage.engine.backbone import Backbone
from tutelage.engine.loss import LossSum
from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import RecipeError
from tutelage.metrics.types import Prediction
from tutelage.models.types import HeadWanted
from tutelage.recipe import SourceSpec
from tutelage.tasks.types import TASKS, Bound, Opening
from tutelage.taskspec import TaskSpec

Sources = dict[str, SourceSpec]
Vary = Callable[[Encoded, np.random.Generator], Encoded]


def open_task(spec: TaskSpec, sources: Sources, opening: Opening) -> Bound:
    """The recipe's task, or all tasks of its sources together."""
    if all(source.task is None and source.loss == "tokens" for source in sources.values()):
        return TASKS.get(spec.kind).open(spec, opening)
    specs = {file: source.task or spec for file, source in sources.items()}
    different = list({id(each): each for each in specs.values()}.values())
    members = []
    for each in different:
        files = frozenset(file for file, own in specs.items() if own is each)
        part = replace(opening, rows=_of(opening.rows, files), others=_of(opening.others, files))
        members.append(Member(TASKS.get(each.kind).open(each, part), files))
    heads = {member.task.head for member in members}
    if len(heads) > 1:
        kinds = ", ".join(sorted(head.kind for head in heads))
        raise RecipeError(
            "the sources' tasks need different heads", where="data.train", why=f"one model has one head, and these are {kinds}",
            fix="with a chat model, use classify with `verbalised: true`, seq2seq and chat",
        )  # fmt: skip
    alone = frozenset(file for file, source in sources.items() if source.loss == "examples")
    main = next((index for index, each in enumerate(different) if each is spec), 0)
    return Mixed(members[main].task.spec, tuple(members), alone)


def _of(rows: Sequence[Row], files: frozenset[str]) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.at.source in files)


@dataclass(frozen=True)
class Member:
    """One task, and the files whose rows are its."""

    task: Bound
    files: frozenset[str]


@dataclass(frozen=True)
class Mixed:
    """Tasks that share a head. `spec` is the recipe's where a source has it, else the first one's, with its label names.

    `by_example`: files whose rows count 1 each in the loss.
    """

    spec: TaskSpec
    members: tuple[Member, ...]
    by_example: frozenset[str]

    @property
    def _first(self) -> Bound:
        return self.members[0].task

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._first.tokenizer

    @property
    def template(self) -> Template | None:
        """The chat template, where there is one."""
        return self._first.template

    @property
    def head(self) -> HeadWanted:
        """The one head."""
        return self._first.head

    def _parts(self, rows: Sequence[Row]) -> Iterator[tuple[Bound, tuple[Row, ...]]]:
        for member in self.members:
            part = _of(rows, member.files)
            if part:
                yield member.task, part

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """The rows of each task, one task after the other."""
        fitted = [task.fit(part) for task, part in self._parts(rows)]
        dropped: tuple[Dropped, ...] = tuple(drop for each in fitted for drop in each.dropped)
        return Fitted(
            tuple(self._weighted(row) for each in fitted for row in each.rows), dropped,
            sum(each.over_length for each in fitted), sum(each.cut for each in fitted), sum(each.encoded for each in fitted),
        )  # fmt: skip

    def _weighted(self, row: Encoded) -> Encoded:
        if row.at.source not in self.by_example:
            return row
        if row.targets is not None:
            whole = float(row.targets.weights.sum())
            return replace(row, targets=replace(row.targets, weights=(row.targets.weights / whole).astype(np.float32)))
        return replace(row, weights=(row.weights / float(row.weights[1:].sum() or 1.0)).astype(np.float32))

    @property
    def vary(self) -> Vary | None:
        """What varies the rows of those tasks that vary theirs; None where none does."""
        return self._vary if any(hasattr(member.task, "vary") for member in self.members) else None

    def _vary(self, row: Encoded, draw: np.random.Generator) -> Encoded:
        vary = next((getattr(m.task, "vary", None) for m in self.members if row.at.source in m.files), None)
        return self._weighted(vary(row, draw)) if vary else row

    def contract(self, rows: Sequence[Row], fitted: Fitted) -> Contract:
        """The contracts of all tasks, added up; a check fails where it fails for one of them."""
        found = [
            task.contract(part, replace(fitted, rows=tuple(r for r in fitted.rows if r.at.source in files)))
            for (task, part), files in zip(self._parts(rows), self._files(rows))
        ]
        roles: dict[str, int] = {}
        for each in found:
            roles = {role: roles.get(role, 0) + each.roles.get(role, 0) for role in {*roles, *each.roles}}
        return replace(
            found[0], rows=sum(each.rows for each in found), tokens=sum(each.tokens for each in found),
            target_tokens=sum(each.target_tokens for each in found), roles=dict(sorted(roles.items())),
            longest=max(each.longest for each in found), checks=_joined([check for each in found for check in each.checks]),
        )  # fmt: skip

    def _files(self, rows: Sequence[Row]) -> list[frozenset[str]]:
        return [member.files for member in self.members if _of(rows, member.files)]

    def examples(self, fitted: Fitted, first: int) -> list[dict[str, Any]]:
        """Examples of each task."""
        found = []
        for member in self.members:
            part = replace(fitted, rows=tuple(row for row in fitted.rows if row.at.source in member.files))
            found += member.task.examples(part, first) if part.rows else []
        return found

    def backbone(self, model: Any) -> Backbone:
        """The backbone that all of them share."""
        return self._first.backbone(model)

    def layouts(self, rows: Sequence[Encoded], plan: ExecutionPlan) -> Sequence[Any]:
        """Micro-batches of rows of all tasks."""
        return self._first.layouts(rows, plan)

    def loss(self, backbone: Any, layout: Any, *, fast: bool = True) -> LossSum:
        """The loss of the shared head."""
        return self._first.loss(backbone, layout, fast=fast)

    def predict(self, backbone: Any, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """Each task's predictions; their rows' files tell them apart."""
        return [found for task, part in self._parts(rows) for found in task.predict(backbone, part, plan)]


def _joined(checks: Sequence[Check]) -> tuple[Check, ...]:
    names = dict.fromkeys(check.name for check in checks)
    parts = [[check for check in checks if check.name == name] for name in names]
    return tuple(
        replace(
            same[0], count=sum(c.count for c in same), violations=sum(c.violations for c in same),
            problems=tuple(problem for c in same for problem in c.problems)[:20],
        )
        for same in parts
    )  # fmt: skip
