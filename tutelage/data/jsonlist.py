"""The items of a JSON list, one at a time: a file of any size is read in bounded memory."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from tutelage.data.jsonvalue import FaultError, parse
from tutelage.data.lines import MAX_LINE

CHUNK = 256 * 1024
_SPACE = re.compile(r"[ \t\r\n]*")
# The scanner only finds where an item ends; `parse` then reads it strictly. Its hooks keep it from building objects.
_SCANNER = json.JSONDecoder(
    object_pairs_hook=lambda pairs: None, parse_int=lambda t: None, parse_float=lambda t: None, parse_constant=lambda t: None
)  # fmt: skip


class _Window:
    """A moving piece of the text of `file`, with the number of lines before it."""

    def __init__(self, file: BinaryIO, chunk: int) -> None:
        self.chunk = chunk
        self.file, self.decoder = file, codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.line, self.bytes, self.ended = "", 0, 1, file.tell(), False

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        if self.ended:
            return False
        self.line += self.text.count("\n", 0, self.at)
        self.text, self.at = self.text[self.at :], 0
        size = max(
            self.chunk, len(self.text)
        )  # twice as much each time, so that a long item is scanned a few times only
        data = self.file.read(size)
        self.ended = len(data) < size
        self.bytes += len(data)
        self.text += self.decoder.decode(data, final=self.ended)
        return bool(data)

    def skip_space(self) -> str:
        """The next character that is no white space, empty at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def undecodable(self, error: UnicodeDecodeError) -> int:
        """The number of the line with the bytes that `error` is about."""
        return self.line + self.text.count("\n") + error.object[: error.start].count(b"\n")

    def here(self) -> int:
        """The number of the line that stands at the place."""
        return self.line + self.text.count("\n", 0, self.at)


def items(file: BinaryIO, chunk: int = CHUNK) -> Iterator[object]:
    """Each item of the list in `file`, read strictly; FaultError with its line where there is no such item."""
    window = _Window(file, chunk)
    try:
        window.skip_space()
        window.at += 1  # the bracket
        if window.skip_space() == "]":
            window.at += 1
        else:
            while True:
                yield _item(window)
                sign = window.skip_space()
                window.at += 1
                if sign == "]":
                    break
                if sign != ",":
                    raise FaultError("this is not JSON", *_missing(sign), line=window.here())
                window.skip_space()
        if rest := window.skip_space():
            raise FaultError("this is not JSON", f"{rest!r} stands behind the list", "remove it", window.here())
    except UnicodeDecodeError as error:
        place = window.bytes - len(error.object) + error.start
        why = f"invalid byte 0x{error.object[error.start]:02x} at byte {place} of the file"
        raise FaultError(
            "the text is not UTF-8", why, "iconv -f WINDOWS-1252 -t UTF-8", window.undecodable(error)
        ) from error


def _missing(sign: str) -> tuple[str, str]:
    if not sign:
        return "the file ends in the middle of the list", "write it anew; it was cut off"
    return f"a comma or ] is expected, not {sign!r}", "write the rows with a JSON library"


def _item(window: _Window) -> object:
    """The item at the window's place."""
    while True:
        try:
            _, end = _SCANNER.raw_decode(window.text, window.at)
        except RecursionError as error:
            raise FaultError(
                "the nesting is too deep", "more levels than can be read", "flatten the row", window.here()
            ) from error
        except json.JSONDecodeError as error:
            if len(window.text) - window.at > MAX_LINE:
                raise FaultError(
                    "the row is too long", f"more than {MAX_LINE:,} characters", "cut it", window.here()
                ) from error
            if not window.more():
                return _read(window, len(window.text))
            continue
        if end == len(window.text) and window.more():
            continue  # a number may go on behind the window
        return _read(window, end)


def _read(window: _Window, end: int) -> object:
    text = window.text[window.at : end]
    try:
        value = parse(text)
    except FaultError as fault:
        line = window.here()
        try:
            parse("\n" * (line - 1) + text)  # the same fault, with the line of the file
        except FaultError as placed:
            raise FaultError(placed.what, placed.why, placed.fix, max(line, placed.line)) from fault
    window.at = end
    return value
