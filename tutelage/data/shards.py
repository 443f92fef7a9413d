"""The first pass over data in shards: which rows are whose, and the file that holds what a shard's rows showed.

A shard's file is a zip. `head.json` says what was asked of all shards; each chunk of rows is a member
`<file>-<chunk>.npz` with arrays and a JSON document (nothing is pickled). Read in the order of their names, the chunks
of all shards are those of the single run.
"""

import json
import os
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError, MissingInputError, OutputError, Problem, UsageError

HEAD = "head.json"
DOCUMENT = "document"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` equal parts of the rows; `index` counts from 0."""

    index: int
    count: int

    def has(self, file: int, chunk: int, files: int) -> bool:
        """Is this chunk of rows of this file its own? With at least as many files as shards, files are dealt whole."""
        return (file if files >= self.count else file + chunk) % self.count == self.index

    def reads(self, file: int, files: int) -> bool:
        """Has it a chunk of this file?"""
        return files < self.count or self.has(file, 0, files)

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


WHOLE = Shard(0, 1)


def parse_shard(text: str) -> Shard:
    """The shard that is written as `2/8`: the second of eight."""
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UsageError(f"`{text}` is no shard", where="--shard", fix="--shard 2/8 is the second of eight")
    return Shard(int(first) - 1, int(last))


def pack(document: Any, arrays: Arrays) -> bytes:
    """A JSON document and arrays as bytes."""
    text = np.frombuffer(json.dumps(document).encode(), np.uint8)
    file = BytesIO()
    np.savez_compressed(file, allow_pickle=False, **{DOCUMENT: text, **arrays})
    return file.getvalue()


def unpack(data: bytes) -> tuple[Any, Arrays]:
    """What `pack` was given."""
    with np.load(BytesIO(data), allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    return json.loads(arrays.pop(DOCUMENT).tobytes()), arrays


def write_shard(path: Path, head: dict[str, Any], shard: Shard, chunks: Iterable[tuple[tuple[int, int], bytes]]) -> int:
    """Write a shard's file, which appears as a whole; `chunks` are ((file, chunk), bytes). Returns their number."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    count = 0
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
            file.writestr(HEAD, json.dumps({"shard": shard.index, "shards": shard.count, "job": head}))
            for (number, chunk), data in chunks:
                file.writestr(f"{number:08}-{chunk:08}.npz", data)
                count += 1
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError("cannot write this file", where=str(path), why=error.strerror or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def read_heads(paths: Sequence[str]) -> dict[str, Any]:
    """What all shards of a job were asked, which must be the same; every shard must be there once."""
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise MissingInputError([Problem("there is no such shard", path, fix="--shard writes it") for path in missing])
    heads = [(path, _head(path)) for path in paths]
    (first, told), *others = heads
    problems = [
        Problem("this is a shard of another job", path, f"it differs from {first} in {_difference(told, head)}",
                "make all shards with the same command, files and version")
        for path, head in others if (head["job"], head["shards"]) != (told["job"], told["shards"])
    ]  # fmt: skip
    if problems:
        raise DataError(problems)
    have = sorted(head["shard"] for _, head in heads)
    lacking = sorted(set(range(told["shards"])) - set(have))
    if lacking or len(have) != told["shards"]:
        names = ", ".join(str(Shard(index, told["shards"])) for index in lacking[:20])
        twice = "" if lacking else "one is named twice"
        raise DataError(
            "these are not all shards, each once", where=first, why=f"lacking are {names}" if lacking else twice,
            fix="name every file that --shard wrote",
        )  # fmt: skip
    job: dict[str, Any] = told["job"]
    return job


def read_chunks(paths: Sequence[str]) -> Iterator[tuple[Any, Arrays]]:
    """The chunks of all shards in the order of the single run."""
    with ExitStack() as stack:
        files = [stack.enter_context(zipfile.ZipFile(path)) for path in paths]
        members = sorted((name, place) for place, file in enumerate(files) for name in file.namelist() if name != HEAD)
        for name, place in members:
            try:
                yield unpack(files[place].read(name))
            except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
                raise _damaged(paths[place], error) from error


def _head(path: str) -> Any:
    try:
        with zipfile.ZipFile(path) as file:
            head = json.loads(file.read(HEAD))
            return {key: head[key] for key in ("shard", "shards", "job")}
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> DataError:
    return DataError("this is no shard, or it is damaged", where=path, why=str(error), fix="make it again with --shard")


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    if one["shards"] != other["shards"]:
        return "the number of shards"
    mine, theirs = one["job"], other["job"]
    return ", ".join(key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key))
