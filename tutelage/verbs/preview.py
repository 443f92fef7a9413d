"""`tutelage preview`: the exact tokens that would be trained, shown and checked; no weight is loaded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tutelage.recipe import Recipe, read_recipe
from tutelage.train.material import gather

Say = Callable[[str], None]


def preview(
    recipe: str | Path | Recipe, *, set: Sequence[str] = (), rows: int = 3, say: Say | None = None
) -> dict[str, Any]:
    """The token contract of a recipe: counts, checks, and `rows` examples besides the longest and least trained ones.

    `ok` is false where a check fails that `task.allow` does not name: `train` would stop there.
    """
    spec = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, tuple(set))
    material = gather(spec, say or (lambda line: None))
    dropped = [
        {"reason": d.reason, "file": d.at.source, "row": d.at.row, "detail": d.detail} for d in material.dropped[:20]
    ]
    contract = material.contract
    failed = [check.name for check in contract.checks if not check.passed and check.name not in spec.task.allow]
    return {
        "ok": not failed,
        **material.contract_json(rows),
        "dropped": len(material.dropped),
        "dropped_rows": dropped,
        "data": {
            "counts": material.counts,
            "formats": material.prepared.formats,
            "overlap": material.prepared.overlap,
            "fingerprint": material.prepared.fingerprint,
        },
        "max_tokens": spec.max_tokens,
    }
