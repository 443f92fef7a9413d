"""Opening a data file for its bytes: plain, or unpacked on the fly where its name ends in .gz."""

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import BinaryIO

PACKED = ".gz"
MOST_RATIO = 200  # unpacked to packed bytes; text packs to a tenth, a bomb to a thousandth
FREE = 64 * 1024 * 1024  # unpacked bytes without a look at the ratio


class BombError(OSError):
    """A packed file that unpacks to far more than text does."""


def suffix_of(file: str) -> str:
    """The ending that tells what a file is, in lower case: `.jsonl` of `rows.jsonl.gz`."""
    path = Path(file)
    return (Path(path.stem) if path.suffix.lower() == PACKED else path).suffix.lower()


def open_bytes(file: str) -> BinaryIO:
    """`file` opened for reading; damage of a packed one is an OSError when it is met."""
    if not file.lower().endswith(PACKED):
        return open(file, "rb")
    return io.BufferedReader(_Unpacking(file), 1024 * 1024)


class _Unpacking(io.RawIOBase):
    """A gzip file as a stream that stops at damage and at what cannot be text."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.inner = gzip.open(file, "rb")  # noqa: SIM115 - closed by close()
        self.limit = max(FREE, os.stat(file).st_size * MOST_RATIO)
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.inner.seek(offset, whence)

    def tell(self) -> int:
        return self.inner.tell()

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        try:
            data = self.inner.read1(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise OSError(0, f"the gzip file is damaged or cut off: {error}") from error
        self.read_bytes += len(data)
        if self.read_bytes > self.limit:
            raise BombError(0, f"it unpacks to more than {MOST_RATIO} times its size, which no text does")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.inner.close()
        super().close()
