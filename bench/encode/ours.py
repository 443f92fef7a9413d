"""Template, mask, tokens, store and token contract: rows per second, as one JSON line; then the same from the store."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.data.prepare import prepare
from tutelage.encode.contract import examine, fit
from tutelage.recipe import ChatSpec, DataSpec, Recipe
from tutelage.train.material import encoded, open_template


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main(model: str, rows: str) -> None:
    """Time the parts one after the other; TUTELAGE_ENCODED must be an empty folder."""
    recipe = Recipe.model_validate({"model": model, "data": {"train": [rows], "validation": 0.0}, "task": ChatSpec()})
    prepared, reading = timed(lambda: prepare(DataSpec.model_validate(recipe.data.model_dump()), seed=0))
    template, opening = timed(lambda: open_template(Path(model)))

    def encode() -> Any:
        stored = encoded(template, recipe, ChatSpec(), "train", prepared.train, prepared.fingerprint, lambda text: None)
        contract = examine(template, prepared.train, fit(stored.rows, 1 << 20, "drop"))
        return stored, contract

    (stored, contract), first = timed(encode)
    (again, _), second = timed(encode)
    if stored.reused or not again.reused:
        raise SystemExit("the store was not empty, or not reused")
    print(json.dumps({
        "rows": contract.rows, "tokens": contract.tokens, "seconds": first, "rows_per_second": contract.rows / first,
        "seconds_from_store": second, "seconds_reading": reading, "seconds_tokenizer": opening,
    }))  # fmt: skip


main(sys.argv[1], sys.argv[2])
