"""Label names of a data set: which there are, in which order, and which rows have one that training rows lack."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tutelage.data.types import Row
from tutelage.errors import DataError, Problem, RecipeError
from tutelage.registry import suggestion


def label_names(
    rows: Sequence[Row], others: Sequence[Row], of: Callable[[Row], Iterable[str]], given: list[str] | None
) -> tuple[str, ...]:
    """The labels of the training rows, sorted, or those `given`; a row with any other label is a problem."""
    if given is not None:
        if len(set(given)) != len(given) or not given:
            raise RecipeError("`task.labels` must be different names", where="task.labels", why=", ".join(given)[:200])
        names = tuple(given)
    else:
        names = tuple(sorted({label for row in rows for label in of(row)}))
    known = set(names)
    why = (
        "it is none of the task's labels (`task.labels`, or those of training)"
        if given is not None
        else "no training row has it, so it cannot be learnt"
    )
    problems = [
        Problem(f"the label {label!r} is unknown", str(row.at), why, suggestion(label, list(names)))
        for row in (*rows, *others)
        for label in sorted(set(of(row)) - known)
    ]
    if problems:
        raise DataError(problems)
    return names


def class_weights(
    names: tuple[str, ...], labels: Iterable[str], given: str | dict[str, float] | None
) -> dict[str, float]:
    """The loss weight of each label: as given, or n / (C · count) (scikit-learn's "balanced")."""
    if given == "balanced":
        counts = Counter(labels)
        whole = sum(counts.values())
        return {name: whole / (len(names) * counts[name]) if counts[name] else 1.0 for name in names}
    return _as_given(names, given)


def positive_weights(
    names: tuple[str, ...], rows: Sequence[Iterable[str]], given: str | dict[str, float] | None
) -> dict[str, float]:
    """The loss weight of each of several labels in rows where it holds: as given, or rows without / rows with it."""
    if given == "balanced":
        counts = Counter(label for labels in rows for label in set(labels))
        return {
            name: (len(rows) - counts[name]) / counts[name] if 0 < counts[name] < len(rows) else 1.0 for name in names
        }
    return _as_given(names, given)


def _as_given(names: tuple[str, ...], given: str | dict[str, float] | None) -> dict[str, float]:
    if isinstance(given, dict):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise RecipeError(
                f"`task.class_weights` names an unknown label `{unknown[0]}`", where="task.class_weights",
                fix=suggestion(unknown[0], list(names)),
            )  # fmt: skip
        return {name: given.get(name, 1.0) for name in names}
    return dict.fromkeys(names, 1.0)
