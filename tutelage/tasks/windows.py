"""Long texts as overlapping windows: each piece is scored in the window where it has the most text around it."""

from collections.abc import Iterator


def windows(length: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """[start, stop) of windows of at most `room` tokens over `length` tokens; neighbours share `stride` of them."""
    step = max(1, room - stride)
    start = 0
    while True:
        stop = min(start + room, length)
        yield start, stop
        if stop >= length:
            return
        start += step


def owner(places: list[tuple[int, int]], token: int) -> int:
    """The window in which `token` stands farthest from an edge that is not an edge of the text."""
    length = places[-1][1]

    def distance(window: tuple[int, int]) -> int:
        start, stop = window
        left = token - start if start > 0 else length
        right = stop - 1 - token if stop < length else length
        return min(left, right)

    inside = [index for index, (start, stop) in enumerate(places) if start <= token < stop]
    return max(inside, key=lambda index: distance(places[index]))
