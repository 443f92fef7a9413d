"""Patterns for parameter names: `embed_tokens`, `layers.0-11`, `layers.*.mlp`, `q_proj.weight`."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from tutelage.errors import Problem, RecipeError
from tutelage.registry import suggestion

RANGE = re.compile(r"(\d+)-(\d+)")


def matching(patterns: Sequence[str], names: Iterable[str], where: str) -> set[str]:
    """The names that any pattern matches; one that matches none is an error at the recipe key `where`.

    A pattern matches where its dotted components stand one after the other in a name. `*` in a component is any text, and
    `3-7` any of those numbers.
    """
    known = {name: name.split(".") for name in names}
    found = {
        pattern: {name for name, parts in known.items() if _stands_in(pattern.split("."), parts)}
        for pattern in patterns
    }
    problems = [
        Problem(f"no parameter of this model matches `{pattern}`", where, fix=_nearest(pattern, list(known)))
        for pattern, matched in found.items()
        if not matched
    ]
    if problems:
        raise RecipeError(problems)
    return set().union(*found.values())


def _stands_in(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    places = range(len(parts) - len(pattern) + 1)
    return any(all(_matches(p, parts[at + i]) for i, p in enumerate(pattern)) for at in places)


def _matches(pattern: str, component: str) -> bool:
    between = RANGE.fullmatch(pattern)
    if between:
        return component.isdigit() and int(between[1]) <= int(component) <= int(between[2])
    return fnmatchcase(component, pattern)


def _nearest(pattern: str, names: list[str]) -> str:
    """What was probably meant: as many components of a known name as the pattern has."""
    size = pattern.count(".") + 1
    runs = {
        ".".join(parts[at : at + size])
        for parts in (n.split(".") for n in names)
        for at in range(len(parts) - size + 1)
    }
    words = sorted(run for run in runs if not run.isdigit())
    return suggestion(pattern, words) if len(words) <= 40 else suggestion(pattern, words).partition(",")[0]
