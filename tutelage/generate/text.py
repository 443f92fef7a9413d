"""A stream of ids to a stream of text that never ends in half a character, nor inside what may become a stop text."""

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no whole character yet
R = TypeVar("R")


class Decoder:
    """Text of ids that come one by one; the pieces together are `decode` of all ids.

    Only a window is decoded again: from the last piece that was given out. Its beginning is decoded with and without
    the new ids, because what a tokenizer writes first in a text (a dropped leading space) differs from what it adds.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.window: list[int] = []  # ids [0, old) are given out and kept as context for the rest
        self.old = 0

    def push(self, *tokens: int) -> str:
        """The text that these ids complete; "" while a character is unfinished."""
        self.window += tokens
        before, now = self.decode(self.window[: self.old]), self.decode(self.window)
        if len(now) <= len(before) or now.endswith(REPLACEMENT):
            return ""
        self.window = self.window[self.old :]
        self.old = len(self.window)
        return now[len(before) :]

    def finish(self) -> str:
        """What is left at the end."""
        return self.decode(self.window)[len(self.decode(self.window[: self.old])) :]


def pieces(ids: Generator[int, None, R], decode: Callable[[list[int]], str]) -> Generator[str, None, R]:
    """Yield pieces whose concatenation is `decode` of all ids; returns what the id stream returns."""
    decoder = Decoder(decode)
    while True:
        try:
            piece = decoder.push(next(ids))
        except StopIteration as end:
            rest = decoder.finish()
            if rest:
                yield rest
            return end.value  # type: ignore[no-any-return]
        if piece:
            yield piece


class StopTexts:
    """Lets text through up to the first stop text, and holds back an end that may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """What may be given out now; nothing more once `stopped` is true."""
        if self.stopped:
            return ""
        self.held += text
        found = [at for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if found:
            self.stopped = True
            out, self.held = self.held[: min(found)], ""
            return out
        keep = max((self._overlap(stop) for stop in self.stops), default=0)
        out, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return out

    def _overlap(self, stop: str) -> int:
        """How many characters at the end of what is held begin `stop`."""
        return next((n for n in range(min(len(stop) - 1, len(self.held)), 0, -1) if self.held.endswith(stop[:n])), 0)

    def finish(self) -> str:
        """What was held back, at the end of the stream."""
        out, self.held = self.held, ""
        return out
