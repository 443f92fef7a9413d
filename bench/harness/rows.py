"""Rows for a comparison, and what they are in tokens."""

from pathlib import Path

from harness.contenders import BATCH
from tutelage.data.prepare import prepare
from tutelage.encode.contract import fit
from tutelage.encode.types import Encoded
from tutelage.recipe import DataSpec
from tutelage.tasks import chat
from tutelage.train.material import open_template

MAX_TOKENS = 512  # as in training; longer rows lose their end


def encoded_rows(model: Path, data: Path, max_tokens: int = MAX_TOKENS) -> tuple[Encoded, ...]:
    """The rows of `data` as ids and targets; a row that is lost on the way is an error."""
    prepared = prepare(DataSpec.model_validate({"train": [str(data)]}), seed=0)
    rows = open_template(model).encode([chat.with_system(row, None) for row in prepared.train], "all")
    fitted = fit(rows, max_tokens, "truncate")
    if prepared.dropped or fitted.dropped:
        raise SystemExit(f"rows were dropped: {[str(row) for row in (*prepared.dropped, *fitted.dropped)][:5]}")
    return tuple(fitted.rows)


def spread_rows(source: Path, steps: int, work: Path) -> Path:
    """A file of `steps` batches of rows of `source`, spread evenly over all lengths from the shortest to the longest."""
    lines = source.read_text(encoding="utf-8").splitlines()
    order = sorted(range(len(lines)), key=lambda i: len(lines[i]))
    count = min(steps * BATCH, len(lines))
    chosen = sorted({order[round(i * (len(order) - 1) / (count - 1))] for i in range(count)})
    return _written(work / f"{source.stem}-{count}.jsonl", [lines[i] for i in chosen])


def first_rows(sources: list[Path], count: int, work: Path) -> Path:
    """A file of the first `count` rows of all `sources` together."""
    lines = [line for source in sources for line in source.read_text(encoding="utf-8").splitlines()]
    return _written(work / f"first-{count}.jsonl", lines[:count])


def _written(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path
