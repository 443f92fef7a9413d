"""A GGUF file's header, read with bounds: metadata and the places of its tensors. Nothing is trusted unchecked.

The reader of the `gguf` package answers damaged files with IndexError, KeyError and worse, so it is not used; only its
numeric tables are (block sizes and dequantisation).
"""

import math
import mmap
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from tutelage.errors import ModelError

Value = int | float | bool | str | list[int] | list[float] | list[bool] | list[str]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_METADATA = 4096
MAX_TENSORS = 65_536
MAX_KEY = 65_535  # bytes; the specification's own limit
MAX_STRING = 1 << 20
MAX_ARRAY = 1 << 21  # a vocabulary has at most about 300,000 tokens
MAX_ITEMS = 1 << 22  # of all arrays together: each becomes a Python object
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 65_536
MAX_SIZE = 1 << 24  # of any one dimension that the metadata name
STRING, ARRAY, BOOL = 8, 9, 7
ADDRESS = re.compile(r"https://[\w./%-]{1,200}")
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor's place. `shape` is in numpy order (rows first), `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself."""

    path: Path
    metadata: dict[str, Value]
    tensors: dict[str, GgufTensor]

    def refuse(self, what: str, *, at: str = "", why: str = "") -> ModelError:
        """The sentence for a file that is sound but not understood, at a key or tensor."""
        keys = ("general.base_model.0.repo_url", "general.source.url", "general.repo_url")
        said = next((url for key in keys if ADDRESS.fullmatch(url := str(self.metadata.get(key)))), None)
        fix = "name the folder or hub id of the original model instead" + (f" (the file says {said})" if said else "")
        return ModelError(what, where=f"{self.path}: {at}" if at else str(self.path), why=why, fix=fix)

    def number(self, key: str, *, default: float | None = None) -> float:
        """The positive number at `key`."""
        value = self.metadata.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.refuse(f"`{key}` is missing or not a positive number", at=key, why=repr(value)[:100])
        return value

    def size(self, key: str, *, default: int | None = None) -> int:
        """The positive whole number at `key`."""
        value = self.number(key, default=default)
        if value != int(value) or value > MAX_SIZE:
            raise self.refuse(f"`{key}` is not a usable size", at=key, why=repr(value))
        return int(value)


class _Cursor:
    """Reads one value after the other and never past the end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.at = 0
        self.items = 0  # of all arrays so far

    def fail(self, what: str, why: str = "") -> ModelError:
        return ModelError(
            f"this is not a sound GGUF file: {what}",
            where=f"{self.path}:byte {self.at}",
            why=why,
            fix="fetch the file again, or name the folder or hub id of the original model",
        )

    def need(self, count: int, what: str) -> None:
        if count > len(self.data) - self.at:
            raise self.fail(f"it ends inside {what}", f"{count} bytes wanted, {len(self.data) - self.at} left")

    def numbers(self, code: str, count: int, what: str) -> list[int] | list[float] | list[bool]:
        self.need(struct.calcsize("<" + code) * count, what)
        if code == "?" and any(byte > 1 for byte in self.data[self.at : self.at + count]):
            raise self.fail(f"{what} is neither true nor false")
        values = struct.unpack_from(f"<{count}{code}", self.data, self.at)
        self.at += struct.calcsize("<" + code) * count
        return list(values)

    def integer(self, code: str, what: str) -> int:
        return int(self.numbers(code, 1, what)[0])

    def string(self, what: str, most: int = MAX_STRING) -> str:
        start = self.at
        length = self.integer("Q", what)
        if length > most:
            self.at = start
            raise self.fail(f"{what} is too long", f"{length} bytes, at most {most} are read")
        self.need(length, what)
        try:
            text = self.data[self.at : self.at + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8", str(error)) from error
        self.at += length
        return text

    def value(self, what: str) -> Value:
        kind = self.integer("I", f"the type of {what}")
        if kind == STRING:
            return self.string(what)
        if kind != ARRAY:
            return self.numbers(self._code(kind, what), 1, what)[0]
        kind, count = self.integer("I", f"the item type of {what}"), self.integer("Q", f"the length of {what}")
        self.items += count
        if count > MAX_ARRAY or self.items > MAX_ITEMS:
            raise self.fail(f"{what} has too many items", f"{count}, at most {MAX_ARRAY} are read")
        if kind == STRING:
            self.need(8 * count, what)
            return [self.string(f"item {index} of {what}") for index in range(count)]
        return self.numbers(self._code(kind, what), count, what)

    def _code(self, kind: int, what: str) -> str:
        if kind not in SCALARS:
            raise self.fail(f"{what} has a type that is not read", f"type {kind}")
        return SCALARS[kind]


def read_gguf(path: Path) -> GgufHeader:
    """The header of the GGUF file at `path`; every failure is a ModelError with the file and the byte."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < 24:
                raise ModelError(
                    "this is not a GGUF file", where=f"{path}:byte 0", why="it is too short", fix="fetch it again"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _header(_Cursor(data, path))
    except OSError as error:
        raise ModelError(
            "cannot read this file", where=str(path), why=error.strerror or str(error), fix="check its path and rights"
        ) from error


def _header(cursor: _Cursor) -> GgufHeader:
    if cursor.data[:4] != MAGIC:
        raise cursor.fail("it does not begin with GGUF", f"it begins with {cursor.data[:4]!r}")
    cursor.at = 4
    version = cursor.integer("I", "the version")
    if version not in VERSIONS:
        big_endian = version & 0xFFFF == 0
        raise cursor.fail("its version is not read", "it is big-endian" if big_endian else f"version {version}")
    tensor_count, key_count = cursor.integer("Q", "the tensor count"), cursor.integer("Q", "the key count")
    if tensor_count > MAX_TENSORS or key_count > MAX_METADATA:
        raise cursor.fail("it claims too many entries", f"{tensor_count} tensors, {key_count} keys")
    metadata: dict[str, Value] = {}
    for _ in range(key_count):
        key = cursor.string("a key", MAX_KEY)
        if key in metadata:
            raise cursor.fail(f"the key `{key[:200]}` stands twice")
        metadata[key] = cursor.value(f"`{key[:200]}`")
    entries = [_entry(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.fail("general.alignment is not a power of two", repr(alignment)[:100])
    return GgufHeader(cursor.path, metadata, _placed(cursor, entries, alignment))


def _entry(cursor: _Cursor) -> GgufTensor:
    name = cursor.string("a tensor's name", 256)
    dimensions = cursor.integer("I", f"tensor `{name}`")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.fail(f"tensor `{name}` has {dimensions} dimensions", f"1 to {MAX_DIMENSIONS} are read")
    shape = tuple(int(size) for size in reversed(cursor.numbers("Q", dimensions, f"the shape of `{name}`")))
    if min(shape) < 1 or math.prod(shape) > 1 << 42:
        raise cursor.fail(f"tensor `{name}` has an impossible shape", str(shape))
    number = cursor.integer("I", f"the type of `{name}`")
    offset = cursor.integer("Q", f"the offset of `{name}`")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError as error:
        raise cursor.fail(f"tensor `{name}` has an unknown type", f"type {number}") from error
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise cursor.fail(f"a row of tensor `{name}` does not fill whole blocks", f"{shape[-1]} is not {block} times n")
    return GgufTensor(name, shape, kind, offset, math.prod(shape) // block * block_bytes)


def _placed(cursor: _Cursor, entries: list[GgufTensor], alignment: int) -> dict[str, GgufTensor]:
    start = cursor.at + -cursor.at % alignment
    tensors: dict[str, GgufTensor] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.name in tensors:
            raise cursor.fail(f"tensor `{entry.name}` stands twice")
        if entry.offset % alignment or entry.offset < end:
            raise cursor.fail(f"tensor `{entry.name}` is not aligned or overlaps another", f"offset {entry.offset}")
        end = entry.offset + entry.nbytes
        if start + end > len(cursor.data):
            raise cursor.fail(f"tensor `{entry.name}` lies outside the file", f"it would end at byte {start + end}")
        tensors[entry.name] = GgufTensor(entry.name, entry.shape, entry.kind, start + entry.offset, entry.nbytes)
    return tensors
