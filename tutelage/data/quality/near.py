"""Near-duplicates: MinHash signatures (Broder 1997) in bands (locality-sensitive hashing, Leskovec et al. 2014, §3.4).

A text is the set of its pairs of neighbouring words, hashed to 32 bits. Rows that agree in a band are candidates; the
exact Jaccard similarity of their sets decides. So nothing is called a near-duplicate by chance, and the bands only
decide how many are missed: with 12 bands of 5, fewer than 1 % of pairs at a similarity of 0.8, almost none above 0.85.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint32]
WordHashes = NDArray[np.uint64]
U32, U64 = np.uint32, np.uint64
MOST_WORDS = 2_000_000  # kept hashes of words; then the table starts anew
BLOCK = 16_384  # shingles that are worked on at once, so that they stay in the processor's cache
LEADERS = 32  # rows of one band that each later one is compared with
MISSED = 0.01  # of the pairs exactly at the threshold
_ANSWER_SALT = U64(0xA5A5_5A5A_C3C3_3C3C)
_MIX, _MIX2 = U64(0x9E3779B97F4A7C15), U64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True, slots=True)
class Sketches:
    """The sets of some rows and their band hashes.

    `shingles` holds the sets one after another, row i's from `ends[i-1]` to `ends[i]`, each sorted without repeats;
    `prompts[i]` of them are the prompt's, then come the answer's. `bands` is (rows, bands) of 64-bit hashes.
    """

    shingles: Hashes
    prompts: NDArray[np.int32]
    ends: NDArray[np.int64]
    bands: NDArray[np.uint64]

    def set_of(self, row: int) -> tuple[Hashes, Hashes]:
        """The shingles of the prompt and of the answer of `row`."""
        start = int(self.ends[row - 1]) if row else 0
        middle, end = start + int(self.prompts[row]), int(self.ends[row])
        return self.shingles[start:middle], self.shingles[middle:end]


class Words(dict[str, int]):
    """Words to 64-bit hashes, the same on every machine."""

    def __missing__(self, word: str) -> int:
        if len(self) > MOST_WORDS:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value

    def hashes(self, words: list[str]) -> WordHashes:
        """[words] their hashes. Taken at once, so that the words need not be kept: a third of the time was memory for them."""
        return np.fromiter(map(self.__getitem__, words), U64, len(words))


def shape(threshold: float) -> tuple[int, int]:
    """(bands, rows per band): the cheapest of at most 128 hashes that misses at most 1 % of pairs at `threshold`."""
    best = (128, 1)
    for rows in range(2, 9):
        bands = int(np.ceil(np.log(MISSED) / np.log1p(-(threshold**rows)))) if threshold < 1 else 1
        if bands * rows <= 128:
            best = (bands, rows)
            if bands * rows > 50:
                break
    return best


def sketch(prompts: Sequence[WordHashes], answers: Sequence[WordHashes], threshold: float) -> Sketches:
    """The sketches of rows whose prompts and answers have these words."""
    shingles, ends = _shingles([part for pair in zip(prompts, answers) for part in pair])
    bands, width = shape(threshold)
    counts = np.diff(ends, prepend=0)
    row_ends = ends[1::2]
    return Sketches(shingles, counts[0::2].astype(np.int32), row_ends, _bands(shingles, row_ends, bands, width))


def _shingles(parts: Sequence[WordHashes]) -> tuple[Hashes, NDArray[np.int64]]:
    """The sorted sets of all parts, one after another, and where each ends. Odd parts (answers) are salted."""
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    total = int(lengths.sum())
    if not total:
        return np.empty(0, U32), np.zeros(len(parts), np.int64)
    hashes = np.concatenate(parts)
    owner = np.repeat(np.arange(len(parts), dtype=np.int64), lengths)
    last = np.ones(total, bool)
    last[:-1] = owner[1:] != owner[:-1]
    following = np.roll(hashes, -1)
    following[last] = 0  # the last word of a part is its own shingle only where it is the only word
    pairs = hashes * _MIX + following
    pairs[owner % 2 == 1] ^= _ANSWER_SALT
    pairs ^= pairs >> U64(29)
    pairs *= _MIX2
    small = (pairs >> U64(32)).astype(U64)
    keep = ~last | (lengths[owner] == 1)
    # owner in the upper half, so that one sort puts every part's shingles in order beside each other
    packed = np.sort((owner[keep].astype(U64) << U64(32)) | small[keep])
    fresh = np.ones(len(packed), bool)
    fresh[1:] = packed[1:] != packed[:-1]
    packed = packed[fresh]
    counts = np.bincount((packed >> U64(32)).astype(np.int64), minlength=len(parts))
    return packed.astype(U32), np.cumsum(counts)


def _bands(shingles: Hashes, ends: NDArray[np.int64], bands: int, width: int) -> NDArray[np.uint64]:
    """MinHash signatures folded to one hash per band; a row without shingles gets hashes of its own place (no match)."""
    draw = np.random.Generator(np.random.PCG64(20_260_101)).integers(1, 2**32, (bands * width, 2), dtype=U32) | U32(1)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    result = np.empty((len(ends), bands), U64)
    first = 0
    while first < len(ends):
        upto = int(np.searchsorted(ends, starts[first] + BLOCK, side="right"))
        upto = max(upto, first + 1)
        result[first:upto] = _band_block(shingles, starts[first:upto], ends[first:upto], draw, width)
        first = upto
    return result


def _band_block(
    shingles: Hashes, starts: NDArray[np.int64], ends: NDArray[np.int64], draw: Hashes, width: int
) -> NDArray[np.uint64]:
    filled = ends > starts
    block = shingles[int(starts[0]) : int(ends[-1])]
    offsets = (starts - starts[0])[filled]
    folded = np.zeros((len(starts), len(draw) // width), U64)
    for place, (factor, other) in enumerate(draw):
        values = block * factor
        values ^= values >> U32(15)
        values *= other
        values ^= values >> U32(16)
        if len(offsets):
            smallest = np.minimum.reduceat(values, offsets).astype(U64)
            band = folded[filled, place // width]
            folded[filled, place // width] = (band ^ smallest) * _MIX + (band >> U64(32))
    return folded


def jaccard(first: Hashes, second: Hashes) -> float:
    """|A ∩ B| / |A ∪ B| of two sorted sets; 1 where both are empty."""
    if not len(first) and not len(second):
        return 1.0
    if min(len(first), len(second)) == 0:
        return 0.0
    merged = np.concatenate([first, second])
    merged.sort(kind="mergesort")
    common = int(np.count_nonzero(merged[1:] == merged[:-1]))
    return common / (len(merged) - common)


def similarity(sketches: Sketches, a: int, b: int) -> float:
    """The Jaccard similarity of two rows: the smaller one of that of their prompts and that of their answers."""
    (prompt_a, answer_a), (prompt_b, answer_b) = sketches.set_of(a), sketches.set_of(b)
    return min(jaccard(prompt_a, prompt_b), jaccard(answer_a, answer_b))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows (the earlier first) with their exact similarity."""

    first: int
    second: int
    similarity: float


def pairs(sketches: Sketches, threshold: float, rows: NDArray[np.int64] | None = None) -> Iterator[Pair]:
    """The pairs of near-duplicates among `rows` (default: all), each once.

    Among rows that share a band, each is compared with the first ones only: a template of thousands of rows costs
    thousands of comparisons and not millions. Rows with equal texts are best left out of `rows` but for one.
    """
    rows = np.arange(len(sketches.ends)) if rows is None else rows
    rows = rows[np.diff(sketches.ends, prepend=0)[rows] > 0]
    found: set[tuple[int, int]] = set()
    for band in range(sketches.bands.shape[1]):
        column = sketches.bands[:, band][rows]
        order = np.argsort(column, kind="stable")
        values = column[order]
        edges = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else order
        sizes = np.diff(np.append(edges, len(values)))
        for start, size in zip(edges[sizes > 1].tolist(), sizes[sizes > 1].tolist()):
            yield from _within(rows[order[start : start + size]].tolist(), sketches, threshold, found)


def _within(rows: list[int], sketches: Sketches, threshold: float, found: set[tuple[int, int]]) -> Iterator[Pair]:
    for place, row in enumerate(rows):
        for earlier in rows[: min(place, LEADERS)]:
            if (earlier, row) not in found and (alike := similarity(sketches, earlier, row)) >= threshold:
                found.add((earlier, row))
                yield Pair(earlier, row, alike)


def find_root(group: NDArray[np.int64], row: int) -> int:
    """The smallest row of the group that `row` is in (union-find with path halving)."""
    while group[row] != row:
        group[row] = group[group[row]]
        row = int(group[row])
    return row


def join(group: NDArray[np.int64], a: int, b: int) -> None:
    """Make one group of those of `a` and `b`."""
    a, b = find_root(group, a), find_root(group, b)
    group[max(a, b)] = min(a, b)
