"""A stream of ids to a stream of text that never ends in half a character."""

from collections.abc import Callable, Generator
from typing import TypeVar

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no whole character yet
R = TypeVar("R")


def pieces(ids: Generator[int, None, R], decode: Callable[[list[int]], str]) -> Generator[str, None, R]:
    """Yield pieces whose concatenation is `decode` of all ids; returns what the id stream returns.

    Only a window is decoded again: from the last piece that was given out. Its beginning is decoded with and without
    the new ids, because what a tokenizer writes first in a text (a dropped leading space) differs from what it adds.
    """
    window: list[int] = []  # ids [0, old) are given out and kept as context for the rest
    old = 0
    while True:
        try:
            window.append(next(ids))
        except StopIteration as end:
            rest = decode(window)[len(decode(window[:old])) :]
            if rest:
                yield rest
            return end.value  # type: ignore[no-any-return]
        before, now = decode(window[:old]), decode(window)
        if len(now) > len(before) and not now.endswith(REPLACEMENT):
            yield now[len(before) :]
            window = window[old:]
            old = len(window)
