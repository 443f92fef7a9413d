"""The text lines of a file, each in bounded memory, with the fault of a line beside it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tutelage.data.packed import PACKED, open_bytes
from tutelage.errors import MissingInputError, Problem

MAX_LINE = 16 * 1024 * 1024
MAX_WHOLE = 48 * 1024 * 1024
CHUNK = 1024 * 1024

UTF8_BOM = b"\xef\xbb\xbf"
# First bytes of files that carry another name than what they are. UTF-32 stands before UTF-16: it starts the same.
MAGIC = (
    (b"\xff\xfe\0\0", "UTF-32 text"), (b"\0\0\xfe\xff", "UTF-32 text"),
    (b"\xff\xfe", "UTF-16 text"), (b"\xfe\xff", "UTF-16 text"),
    (b"\x1f\x8b", "a gzip file"), (b"PAR1", "a Parquet file"), (b"PK\x03\x04", "a ZIP or Excel file"),
    (b"ARROW1", "an Arrow file"), (b"\x93NUMPY", "a NumPy file"), (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"), (b"\x28\xb5\x2f\xfd", "a zstd file"), (b"GGUF", "a GGUF model"),
    (b"\x80\x02", "a pickle"), (b"\x80\x03", "a pickle"), (b"\x80\x04", "a pickle"), (b"\x80\x05", "a pickle"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """Line `number` (1-based) without its line end. With a `problem`, `text` has replacement characters or is empty."""

    number: int
    text: str
    problem: Problem | None = None


def read_lines(path: str) -> Iterator[Line]:
    """The lines of the UTF-8 file at `path`; a file that is something else is one line with a problem."""
    number = 0
    try:
        with open_bytes(path) as file:
            problem = _disguise(file, path)
            if problem:
                yield Line(1, "", problem)
                return
            offset = len(UTF8_BOM) if file.read(len(UTF8_BOM)) == UTF8_BOM else 0
            file.seek(offset)
            while raw := file.readline(MAX_LINE + 1):
                number += 1
                size = len(raw)
                if size > MAX_LINE and not raw.endswith(b"\n"):
                    raw = b""  # free it before the rest is skipped
                    size += _skip_line(file)
                    yield Line(number, "", _too_long(path, number, size))
                else:
                    yield _line(raw, path, number, offset)
                offset += size
    except OSError as error:
        if not path.lower().endswith(PACKED):
            raise unreadable(path, error) from error
        yield Line(number + 1, "", _damaged(path, number + 1, error))


def read_whole(path: str) -> Line:
    """The whole UTF-8 file at `path` as one text, or its first problem."""
    try:
        with open_bytes(path) as file:
            problem = _disguise(file, path)
            size = os.stat(path).st_size
            if not problem and size > MAX_WHOLE:
                problem = Problem(
                    "the file is too large",
                    f"{path}:1",
                    f"a .json file is read whole, and this one has {size:,} bytes (at most {MAX_WHOLE:,})",
                    f"write one row a line: jq -c '.[]' {path} > {Path(path).stem}.jsonl",
                )
            if problem:
                return Line(1, "", problem)
            raw = file.read(MAX_WHOLE + 1)
            if len(raw) > MAX_WHOLE:
                return Line(1, "", Problem("the file is too large", f"{path}:1", "unpacked, it is read whole"))
    except OSError as error:
        raise unreadable(path, error) from error
    start = len(UTF8_BOM) if raw.startswith(UTF8_BOM) else 0
    return _line(raw[start:], path, 1, start)


def _damaged(path: str, line: int, error: OSError) -> Problem:
    """The problem of a packed file from the line on at which it could not be unpacked."""
    why = f"{error.strerror or error}; the rest of the file was not looked at"
    return Problem("the packed file cannot be unpacked further", f"{path}:{line}", why, f"pack it anew; gzip -t {path}")


def unreadable(path: str, error: OSError) -> MissingInputError:
    """The error for a file that the operating system does not let us read."""
    return MissingInputError(
        "the file cannot be read", where=path, why=error.strerror or str(error), fix="check its path and permissions"
    )


def _line(raw: bytes, path: str, number: int, offset: int) -> Line:
    problem = None
    if b"\0" in raw:
        problem = _nul(raw, path, number, offset)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = number + raw.count(b"\n", 0, error.start)
        text = raw.decode(errors="replace")
        problem = problem or Problem(
            "the text is not UTF-8",
            f"{path}:{line}",
            f"invalid byte 0x{raw[error.start]:02x} at byte {offset + error.start} of the file",
            f"iconv -f WINDOWS-1252 -t UTF-8 {path} > fixed{Path(path).suffix}",
        )
    return Line(number, text.removesuffix("\n").removesuffix("\r"), problem)


def _nul(raw: bytes, path: str, number: int, offset: int) -> Problem:
    at = raw.index(b"\0")
    line = number + raw.count(b"\n", 0, at)
    if raw[1:8:2].count(0) >= 3 or raw[0:8:2].count(0) >= 3:  # every second byte
        fix = f"this looks like UTF-16: iconv -f UTF-16LE -t UTF-8 {path} > fixed{Path(path).suffix}"
    else:
        fix = f"tr -d '\\000' < {path} > fixed{Path(path).suffix}"
    return Problem("the text contains a NUL byte", f"{path}:{line}", f"at byte {offset + at} of the file", fix)


def _disguise(file: BinaryIO, path: str) -> Problem | None:
    start = file.read(8)
    file.seek(0)
    for magic, name in MAGIC:
        if start.startswith(magic):
            utf = name.split()[0] if name.startswith("UTF") else ""
            fix = f"iconv -f {utf} -t UTF-8 {path} > fixed{Path(path).suffix}" if utf else "save it as UTF-8 JSON Lines"
            why = f"byte 0 starts with {magic.hex(' ')}; only UTF-8 text is read"
            return Problem(f"this is {name}", f"{path}:1", why, fix)
    return None


def _skip_line(file: BinaryIO) -> int:
    skipped = 0
    while chunk := file.readline(CHUNK):
        skipped += len(chunk)
        if chunk.endswith(b"\n"):
            break
    return skipped


def _too_long(path: str, number: int, size: int) -> Problem:
    return Problem(
        "the line is too long",
        f"{path}:{number}",
        f"it has {size:,} bytes, and at most {MAX_LINE:,} are read",
        "cut the row, or check that the file has one row a line",
    )
