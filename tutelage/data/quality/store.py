"""What is remembered of every row, in columns on disk: memory does not grow with the texts."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.data.quality.near import Sketches

SNIPPET_BYTES = 120


@dataclass(frozen=True, slots=True)
class Facts:
    """One value per row: file (an index) and row number, keys of its content, the beginning of its text.

    `exact` is the key of the whole content, `text` that of prompt and target without case and punctuation, `prompt`
    that of the prompt alone, `target` that of the answer or label without case. `length` is the target's;
    `labelled` rows have a label for a target.
    """

    part: NDArray[np.int8]
    file: NDArray[np.int32]
    row: NDArray[np.int64]
    exact: NDArray[np.uint64]
    text: NDArray[np.uint64]
    prompt: NDArray[np.uint64]
    target: NDArray[np.uint64]
    length: NDArray[np.int32]
    labelled: NDArray[np.bool_]
    snippet: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.row)


DTYPES = {
    "part": "i1", "file": "i4", "row": "i8", "exact": "u8", "text": "u8", "prompt": "u8", "target": "u8",
    "length": "i4", "labelled": "?", "snippet": f"S{SNIPPET_BYTES}",
}  # fmt: skip


def cut(text: str) -> bytes:
    """The beginning of `text` on one line, as the store keeps it."""
    line = " ".join(text[: 2 * SNIPPET_BYTES].split())
    return line.encode("utf-8", "replace")[:SNIPPET_BYTES].decode("utf-8", "ignore").encode()


class Store:
    """Columns in the files of `folder`, appended to in the order of rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, facts: Facts, sketches: Sketches) -> None:
        """Add rows behind those that are there."""
        for column in fields(facts):
            self._write(column.name, getattr(facts, column.name).astype(DTYPES[column.name], copy=False))
        self._write("shingles", sketches.shingles)
        self._write("prompts", sketches.prompts)
        self._write("counts", np.diff(sketches.ends, prepend=0).astype(np.int64))
        self._write("bands", sketches.bands)

    def facts(self) -> Facts:
        """All rows, mapped from disk."""
        return Facts(**{name: self._map(name, dtype) for name, dtype in DTYPES.items()})

    def sketches(self, bands: int) -> Sketches:
        """All sketches, mapped from disk."""
        ends = np.cumsum(self._map("counts", "i8"), dtype=np.int64)
        table = self._map("bands", "u8")
        return Sketches(self._map("shingles", "u4"), self._map("prompts", "i4"), ends, table.reshape(-1, bands))

    def _write(self, name: str, values: NDArray[Any]) -> None:
        with open(self.folder / name, "ab") as file:
            file.write(np.ascontiguousarray(values).tobytes())

    def _map(self, name: str, dtype: str) -> NDArray[Any]:
        path = self.folder / name
        if not path.is_file() or not path.stat().st_size:
            return np.empty(0, dtype)
        return np.memmap(path, dtype=dtype, mode="r")
