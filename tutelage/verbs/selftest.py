"""`tutelage selftest`: every way to execute a step against the plain one, on the user's own model and data."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tutelage.errors import CheckFailedError, Problem
from tutelage.models.tiny import KINDS
from tutelage.recipe import Recipe, read_recipe
from tutelage.train.material import gather
from tutelage.train.selftest.checks import Outcome, examine
from tutelage.train.selftest.subject import Subject, notes_of, recipe_subject, tiny_subject
from tutelage.train.setup import available_cores

Say = Callable[[str], None]


def selftest(
    recipe: str | Path | Recipe | None = None, *, set: Sequence[str] = (), say: Say = lambda line: None
) -> dict[str, Any]:
    """Every check with its largest relative difference and its bound; CheckFailedError names the ones that failed.

    Without a recipe it runs on a tiny random model of each usual family, else on the first layers of the recipe's model.
    """
    start, subjects = time.perf_counter(), list(subjects_of(recipe, tuple(set), say))
    threads = torch.get_num_threads()
    torch.set_num_threads(available_cores())
    try:
        notes = {subject.name: notes_of(subject) for subject in subjects}
        outcomes = [outcome for subject in subjects for outcome in examined(subject, say)]
    finally:
        torch.set_num_threads(threads)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if failed:
        raise CheckFailedError([problem(outcome) for outcome in failed], total=len(failed))
    return {
        "ok": True, "seconds": time.perf_counter() - start, "notes": notes,
        "checks": [asdict(outcome) for outcome in outcomes],
    }  # fmt: skip


def subjects_of(recipe: str | Path | Recipe | None, overrides: tuple[str, ...], say: Say) -> Iterator[Subject]:
    """The recipe's own model and rows, or the tiny ones."""
    if recipe is None:
        yield from (tiny_subject(kind) for kind in KINDS)
        return
    spec = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, overrides)
    material = gather(spec, say)
    material.contract.enforce(spec.task.allow)
    yield recipe_subject(spec, material)


def examined(subject: Subject, say: Say) -> Iterator[Outcome]:
    """The outcomes of all methods of a subject, each said as it comes."""
    for spec in subject.methods:
        with tempfile.TemporaryDirectory(prefix="tutelage-selftest-") as folder:
            for outcome in examine(subject, spec, Path(folder)):
                say(f"{'ok' if outcome.passed else 'FAILED':<6}  {subject.name}, {spec.kind}: {outcome.check}")
                yield outcome


def problem(outcome: Outcome) -> Problem:
    """A failed check as a sentence."""
    what = outcome.detail or (
        f"relative difference {outcome.difference:.1e} in {outcome.tensor}, and at most {outcome.bound:g} is rounding"
    )
    return Problem(
        f"it does not hold that {outcome.check}", where=f"{outcome.subject}, method {outcome.method}", why=what,
        fix="report it with the output of `tutelage doctor`; do not trust a run of this model until it is repaired",
    )  # fmt: skip
