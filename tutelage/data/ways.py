"""Sources of one recipe that are trained in different ways: with a task of their own, or with each row counting once.

Their rows stay apart in a prepared folder, in files of their own, and repeat no rows of the others.
"""

from typing import Any

from tutelage.recipe import DataSpec, SourceSpec


def all_sources(spec: DataSpec) -> list[SourceSpec]:
    """The sources of all parts, in the order of the recipe."""
    return [source for part in (spec.train, spec.validation, spec.test) if isinstance(part, list) for source in part]


def way(source: SourceSpec) -> dict[str, Any]:
    """The keys of a source that say how its rows are trained; empty where it has none."""
    own = source.model_dump(mode="json", include={"task", "loss"})
    return {name: value for name, value in own.items() if value != SourceSpec.model_fields[name].default}


def ways(spec: DataSpec) -> dict[str, dict[str, Any]]:
    """Every way of `spec` by a short name for files; "" is that of sources without keys of their own, which comes first."""
    found: dict[str, dict[str, Any]] = {"": {}}
    for source in all_sources(spec):
        if (one := way(source)) not in found.values():
            kind = source.task.kind if source.task else source.loss
            same = sum(name.rstrip("0123456789") == kind for name in found)
            found[f"{kind}{same + 1 if same else ''}"] = one
    return found
