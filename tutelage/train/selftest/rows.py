"""The rows of a self-test: few, short, of unequal lengths and masks, with a prefix that all of them share."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tutelage.data.types import At
from tutelage.encode.layout import MIN_SHARED, shared_prefix
from tutelage.encode.types import Encoded

LENGTHS = (64, 23, 51, 37, 58)  # tokens at most; unequal, so that a mean of means is not the mean
PREFIX = MIN_SHARED + 3
MOST_ROWS = 2000  # of the data are looked at


def random_rows(vocabulary: int, seed: int = 0) -> list[Encoded]:
    """Rows of random tokens that share a prefix; some tokens trained, with unequal weights."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(3, vocabulary, PREFIX)
    made = []
    for number, length in enumerate(LENGTHS):
        ids = np.concatenate((shared, rng.integers(3, vocabulary, length - PREFIX))).astype(np.int32)
        weights = np.where(rng.random(length) < 0.6, rng.choice([1.0, 0.5, 2.0], length), 0.0).astype(np.float32)
        weights[:PREFIX] = 0.0
        weights[-1] = 1.0
        made.append(Encoded(ids, weights, np.zeros(length, np.uint8), At("random tokens", number + 1)))
    return made


def sample_rows(rows: Sequence[Encoded]) -> list[Encoded]:
    """As many rows as LENGTHS says, from the shortest to the longest, each shortened to its own length around a target.

    Where the shortened rows share no prefix, the first tokens of the first one are put before all of them, untrained.
    """
    usable = sorted((row for row in rows[:MOST_ROWS] if np.any(row.weights[1:] > 0)), key=lambda row: len(row.ids))
    last = max(len(usable) - 1, 1)
    chosen = [usable[(number * last // (len(LENGTHS) - 1)) % len(usable)] for number in range(len(LENGTHS))]
    short = [_part(row, _window(row, length)) for row, length in zip(chosen, LENGTHS)]
    if shared_prefix(short):
        return short
    first = np.resize(short[0].ids, PREFIX)
    return [
        Encoded(
            np.concatenate((first, row.ids)), np.concatenate((np.zeros(len(first), np.float32), row.weights)),
            np.concatenate((np.zeros(len(first), np.uint8), row.roles)), row.at, row.cut,
        )
        for row in short
    ]  # fmt: skip


def _window(row: Encoded, length: int) -> NDArray[np.int64]:
    """Places of at most `length` tokens: the row's beginning, and from a little before its first target on."""
    target = int(np.flatnonzero(row.weights[1:] > 0)[0]) + 1
    head = min(PREFIX, target)
    start = head if target < length // 2 else max(head, target - 4)
    return np.concatenate((np.arange(head), np.arange(start, min(start + length - head, len(row.ids)))))


def _part(row: Encoded, places: NDArray[np.int64]) -> Encoded:
    return Encoded(row.ids[places], row.weights[places], row.roles[places], row.at, True)
