"""Parquet files, a few thousand rows at a time. pyarrow reads them; it is an optional package."""

from collections.abc import Iterator
from typing import Any

from tutelage.data.jsonvalue import FaultError, check
from tutelage.data.types import At
from tutelage.errors import Problem, need

BATCH = 1024


def read_parquet(file: str) -> Iterator[tuple[At, dict[str, object]] | Problem]:
    """The rows of a Parquet file in order; a row's place is its number."""
    arrow = need("pyarrow", extra="parquet")
    parquet: Any = need("pyarrow.parquet", extra="parquet")
    number = 0
    try:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield _row(row, At(file, number))
    except (arrow.ArrowException, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        yield Problem("the Parquet file cannot be read", f"{file}:{number + 1}", why, "write it anew; it is damaged")


def _row(row: dict[str, object], at: At) -> tuple[At, dict[str, object]] | Problem:
    try:
        check(row)
    except FaultError as fault:
        return Problem(fault.what, str(at), fault.why, fault.fix or "write such columns as text")
    return at, row
