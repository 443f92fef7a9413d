"""safetensors files, without their library's loader: the bounded header, a streaming writer, the weights' hash."""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import ModelError

MAX_HEADER = 100_000_000  # bytes; the format's own limit
MAX_TENSORS = 200_000
MAX_DIMENSIONS = 16
CHUNK = 1 << 20
ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One entry of a header. `start` and `stop` are bytes behind the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> tuple[StoredTensor, ...]:
    """The tensors that a safetensors file says it holds, in file order; whatever does not add up is a ModelError."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            if len(head) < 8:
                raise _broken(path, "the file is too short", f"it has {size} bytes", 0)
            (length,) = struct.unpack("<Q", head)
            if length > min(MAX_HEADER, size - 8):
                raise _broken(path, "the header is too long", f"it claims {length} bytes of a {size}-byte file", 0)
            text = file.read(length)
    except OSError as error:
        raise ModelError(
            "cannot read the weights", where=str(path), why=error.strerror or str(error), fix="check its rights"
        ) from error
    tensors = _parse(path, text)
    _check_offsets(path, tensors, size - 8 - length)
    return tensors


def _broken(path: Path, what: str, why: str, offset: int) -> ModelError:
    return ModelError(
        f"this is not a sound safetensors file: {what}", where=f"{path}:byte {offset}", why=why, fix="fetch it again"
    )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands twice")
    return values


def _parse(path: Path, text: bytes) -> tuple[StoredTensor, ...]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _broken(path, "the header is not JSON", str(error)[:200], 8) from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise _broken(path, "the header is not an object of tensors", f"at most {MAX_TENSORS} are read", 8)
    tensors = [_entry(path, name, value) for name, value in header.items() if name != "__metadata__"]
    return tuple(sorted(tensors, key=lambda tensor: (tensor.start, tensor.stop)))


def _entry(path: Path, name: str, value: object) -> StoredTensor:
    if not isinstance(value, dict) or not isinstance(value.get("dtype"), str) or value["dtype"] not in ITEM_BITS:
        raise _broken(path, f"tensor `{name[:200]}` has no known dtype", str(value)[:200], 8)
    shape, offsets = _whole_numbers(value.get("shape")), _whole_numbers(value.get("data_offsets"))
    if shape is None or len(shape) > MAX_DIMENSIONS or offsets is None or len(offsets) != 2:
        raise _broken(path, f"tensor `{name[:200]}` has no usable shape or offsets", str(value)[:200], 8)
    tensor = StoredTensor(name, value["dtype"], tuple(shape), offsets[0], offsets[1])
    if tensor.elements * ITEM_BITS[tensor.dtype] != 8 * (tensor.stop - tensor.start):
        raise _broken(path, f"tensor `{name[:200]}` has another size than its shape", str(value)[:200], 8)
    return tensor


def _whole_numbers(value: object) -> list[int] | None:
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value):
        return value
    return None


def _check_offsets(path: Path, tensors: tuple[StoredTensor, ...], available: int) -> None:
    expected = 0
    for tensor in tensors:
        if tensor.start != expected:
            raise _broken(path, f"tensor `{tensor.name[:200]}` overlaps or leaves a gap", f"at {tensor.start}", 8)
        expected = tensor.stop
    if expected != available:
        raise _broken(path, "the data has another length than the header says", f"{available} of {expected} bytes", 8)


def write_tensors(
    path: Path, entries: Mapping[str, tuple[str, tuple[int, ...]]], chunks: Iterator[NDArray[Any]]
) -> None:
    """Write tensors (name → dtype and shape) whose values come in order, in `chunks` of any size, and fsync."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, shape) in entries.items():
        stop = start + ITEM_BITS[dtype] // 8 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype=chunk.dtype.newbyteorder("<")).data)
        if file.tell() != 8 + len(text) + start:
            raise ValueError(f"expected {start} bytes of values, got {file.tell() - 8 - len(text)}")
        file.flush()
        os.fsync(file.fileno())


def shards(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model folder that a loader would read, in order; none is an empty tuple."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    if not index.is_file():
        return ()
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(
            "the shard index is damaged", where=str(index), why=str(error)[:200], fix="fetch it again"
        ) from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                "a shard must be a safetensors file beside its index", where=str(index), why=f"{name!r}"[:200],
                fix="fetch the model again",
            )  # fmt: skip
        if not (folder / name).is_file():
            raise ModelError("a shard is missing", where=str(folder / name), fix="fetch the model again")
    return tuple(folder / name for name in sorted(names))


def sha256_of(paths: tuple[Path, ...]) -> str:
    """The sha256 over the bytes of these files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
