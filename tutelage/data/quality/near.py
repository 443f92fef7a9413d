"""Near-duplicates: MinHash signatures (Broder 1997) in bands (locality-sensitive hashing, Leskovec et al. 2014, §3.4).

A text is the set of its pairs of neighbouring words, hashed to 32 bits. Rows that agree in a band are candidates; the
exact Jaccard similarity of their sets decides. So nothing is called a near-duplicate by chance, and the bands only
decide how many are missed: with 12 bands of 5, fewer than 1 % of pairs at a similarity of 0.8, almost none above 0.85.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.data.quality.wordhash import word_hashes

Hashes = NDArray[np.uint32]
Rows = NDArray[np.int64]
U32, U64 = np.uint32, np.uint64
BLOCK = 16_384  # shingles that are worked on at once, so that they stay in the processor's cache
LEADERS = 32  # rows of one band that each later one is compared with
COMPARED = 1 << 18  # shingles that are compared at once
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


def sketch(prompts: Sequence[str], answers: Sequence[str], threshold: float) -> Sketches:
    """The sketches of rows with these prompts and answers, whose words white space separates (`keys.spaced`)."""
    shingles, ends = _shingles([part for pair in zip(prompts, answers) for part in pair])
    bands, width = shape(threshold)
    counts = np.diff(ends, prepend=0)
    row_ends = ends[1::2]
    return Sketches(shingles, counts[0::2].astype(np.int32), row_ends, _bands(shingles, row_ends, bands, width))


def _shingles(parts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """The sorted sets of all parts, one after another, and where each ends. Odd parts (answers) are salted."""
    hashes, lengths = word_hashes(parts)
    total = len(hashes)
    if not total:
        return np.empty(0, U32), np.zeros(len(parts), np.int64)
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
    smallest, values = np.empty((len(draw), len(offsets)), U32), np.empty_like(block)
    for place, (factor, other) in enumerate(draw if len(offsets) else ()):
        # shingles are mixed already: a product and a sum order them anew (multiply-add hashing, Dietzfelbinger et al. 1997)
        np.multiply(block, factor, out=values)
        np.add(values, other, out=values)
        np.minimum.reduceat(values, offsets, out=smallest[place])
    folded = np.zeros((len(draw) // width, len(offsets)), U64)
    for each in smallest.reshape(-1, width, len(offsets)).astype(U64).swapaxes(0, 1):
        folded = (folded ^ each) * _MIX + (folded >> U64(32))
    result = np.zeros((len(starts), len(folded)), U64)
    result[filled] = folded.T
    return result


def similarities(sketches: Sketches, first: Rows, second: Rows) -> NDArray[np.float64]:
    """[pairs] the similarity of rows `first` and `second`: the smaller Jaccard index of their prompts and their answers.

    |A ∩ B| / |A ∪ B| of two sets, 1 where both are empty.
    """
    begins = sketches.ends - np.diff(sketches.ends, prepend=0)
    middles = begins + sketches.prompts
    result = np.empty(len(first))
    sizes = np.cumsum((sketches.ends - begins)[first] + (sketches.ends - begins)[second])
    place = 0
    while place < len(first):
        before = int(sizes[place - 1]) if place else 0
        upto = max(place + 1, int(np.searchsorted(sizes, before + COMPARED, side="right")))
        one, other = first[place:upto], second[place:upto]
        # four runs for every pair: the prompts of both, the answers of both
        starts = np.stack([begins[one], begins[other], middles[one], middles[other]], axis=1).ravel()
        stops = np.stack([middles[one], middles[other], sketches.ends[one], sketches.ends[other]], axis=1).ravel()
        result[place:upto] = _jaccards(sketches.shingles, starts, stops).reshape(-1, 2).min(axis=1)
        place = upto
    return result


def _jaccards(shingles: Hashes, starts: Rows, stops: Rows) -> NDArray[np.float64]:
    """The similarity of run 0 to run 1, of run 2 to run 3, and so on; a run is the set shingles[start:stop]."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    gathered = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    # as in _shingles: one sort brings the two sets of each comparison together, what both hold side by side
    owner = np.repeat(np.arange(len(starts), dtype=U64) >> U64(1), lengths)
    packed = np.sort((owner << U64(32)) | shingles[gathered])
    twice = (packed[1:][packed[1:] == packed[:-1]] >> U64(32)).astype(np.int64)
    common = np.bincount(twice, minlength=len(starts) // 2)
    union = lengths.reshape(-1, 2).sum(axis=1) - common
    return np.where(union, common / np.maximum(union, 1), 1.0)


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
    compared = np.empty(0, np.int64)  # first * rows + second of all pairs so far, in order
    for band in range(sketches.bands.shape[1]):
        met = np.sort(_meetings(sketches.bands[:, band][rows]) @ np.array([len(rows), 1]))
        fresh = np.setdiff1d(met, compared, assume_unique=True)
        compared = np.sort(np.concatenate([compared, fresh]))
        first, second = rows[fresh // max(len(rows), 1)], rows[fresh % max(len(rows), 1)]
        alike = similarities(sketches, first, second)
        for place in np.flatnonzero(alike >= threshold).tolist():
            yield Pair(int(first[place]), int(second[place]), float(alike[place]))


def _meetings(column: NDArray[np.uint64]) -> Rows:
    """[meetings, 2] the places of equal values: each with the first `LEADERS` ones before it."""
    order = np.argsort(column, kind="stable")
    fresh = np.ones(len(order), bool)
    fresh[1:] = column[order[1:]] != column[order[:-1]]
    places = np.arange(len(order))
    starts = np.maximum.accumulate(np.where(fresh, places, 0))
    counts = np.minimum(places - starts, LEADERS)
    ends = np.cumsum(counts)
    leaders = np.arange(counts.sum()) + np.repeat(starts - (ends - counts), counts)
    return np.stack([order[leaders], np.repeat(order, counts)], axis=1)


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
