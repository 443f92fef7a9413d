"""What becomes of each row: kept or dropped as a repeat or a leak, and which split it goes to."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutelage.data.quality import near
from tutelage.data.quality.repeats import different_texts, groups, later_of_equal
from tutelage.data.quality.store import Facts
from tutelage.recipe import DataSpec, DedupeSpec

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")
Indices = NDArray[np.int64]


@dataclass
class Placing:
    """Per row its split (-1: dropped); per dropped row its reason and the row it is like (-1: none)."""

    split: NDArray[np.int8]
    reasons: dict[int, tuple[str, int]]

    def drop(self, row: int, reason: str, like: int = -1) -> None:
        """Drop a row that was not dropped before."""
        if self.split[row] >= 0:
            self.split[row] = -1
            self.reasons[row] = (reason, like)


@dataclass(frozen=True)
class Extra:
    """Further columns of the rows: keys of the group, the moment (empty: none), which rows a person kept, and in which
    way they are trained; only rows of one way repeat each other.
    """

    group: NDArray[np.uint64]
    time: NDArray[np.bytes_]
    held: NDArray[np.bool_]
    way: NDArray[np.uint64]


def place(facts: Facts, sketches: near.Sketches, extra: Extra, spec: DataSpec, seed: int) -> Placing:
    """The decision for every row of all parts; parts 1 and 2 are given held-out files and stay what they are."""
    placing = Placing(facts.part.astype(np.int8).copy(), {})
    alike: dict[int, list[int]] = {}
    for pair in near.pairs(sketches, spec.dedupe.near or 0.8, different_texts(facts, extra.way)):
        alike.setdefault(pair.first, []).append(pair.second)
        alike.setdefault(pair.second, []).append(pair.first)
    _drop_repeats(facts, extra, spec.dedupe, alike, placing)
    if spec.leak == "remove":
        _drop_leaks(facts, alike, placing)
    links = _links(facts, alike)
    shares = [value if isinstance(value, float) else 0.0 for value in (spec.validation, spec.test)]
    if sum(shares) > 0:
        for keys in (facts.prompt, extra.group) if spec.split.group else (facts.prompt,):
            for first, later in later_of_equal(keys).tolist():
                near.join(links, first, later)
        _split(facts, extra, spec, links, shares, seed, placing)
    return placing


def _links(facts: Facts, alike: dict[int, list[int]]) -> Indices:
    """Groups of rows with equal or nearly equal texts, as a union-find table."""
    links = np.arange(len(facts))
    for first, later in later_of_equal(facts.text).tolist():
        near.join(links, first, later)
    for row, others in alike.items():
        for other in others:
            near.join(links, row, other)
    return links


def _drop_repeats(facts: Facts, extra: Extra, spec: DedupeSpec, alike: dict[int, list[int]], placing: Placing) -> None:
    train = np.flatnonzero(facts.part == TRAIN)
    if spec.exact:
        same = (facts.text[train] + extra.way[train]) * np.uint64(0x9E3779B97F4A7C15) ^ facts.target[train]
        for first, later in later_of_equal(same).tolist():
            if not extra.held[train[later]]:
                placing.drop(int(train[later]), "exact_duplicate", int(train[first]))
    if spec.near is not None:
        _drop_near(facts, extra, spec, alike, placing)
    if spec.contradictions == "drop":
        for group in groups(facts.prompt[train] + extra.way[train]):
            rows = train[group]
            if len(np.unique(facts.target[rows])) > 1:
                for row in rows.tolist():
                    if not extra.held[row]:
                        placing.drop(row, "contradiction", int(rows[0] if row != rows[0] else rows[1]))


def _drop_near(facts: Facts, extra: Extra, spec: DedupeSpec, alike: dict[int, list[int]], placing: Placing) -> None:
    """Best row first, drop what is like it: so each dropped row is like one that is kept. Labels must be equal."""
    rows = sorted(row for row in alike if placing.split[row] == TRAIN)
    if spec.keep == "longest":
        rows.sort(key=lambda row: -int(facts.length[row]))
    for row in rows:
        if placing.split[row] != TRAIN:
            continue
        for other in alike[row]:
            same_label = not facts.labelled[row] or facts.target[row] == facts.target[other]
            same_way = extra.way[row] == extra.way[other]
            if placing.split[other] == TRAIN and same_label and same_way and not extra.held[other]:
                placing.drop(other, "near_duplicate", row)


def _drop_leaks(facts: Facts, alike: dict[int, list[int]], placing: Placing) -> None:
    held = np.flatnonzero(facts.part != TRAIN)
    if not len(held):
        return
    by_prompt = {int(facts.prompt[row]): row for row in reversed(held.tolist())}
    for row in np.flatnonzero(placing.split == TRAIN).tolist():
        if int(facts.prompt[row]) in by_prompt:
            placing.drop(row, "leak", by_prompt[int(facts.prompt[row])])
        elif found := [other for other in alike.get(row, ()) if facts.part[other] != TRAIN]:
            placing.drop(row, "near_leak", min(found))


def _split(
    facts: Facts, extra: Extra, spec: DataSpec, links: Indices, shares: list[float], seed: int, placing: Placing
) -> None:
    """Whole groups of linked rows go to one side; a group's place is that of its first row."""
    rows = np.flatnonzero(placing.split == TRAIN)
    roots = np.array([near.find_root(links, row) for row in rows.tolist()], np.int64)
    units, unit_of = np.unique(roots, return_inverse=True)
    if len(units) < 2:
        return
    keys = extra.group[units] if spec.split.group else facts.prompt[units]
    points = np.array([_point(int(key), seed) for key in keys])
    if spec.split.time:
        inner = np.lexsort((extra.time[rows], unit_of))
        last = np.append(np.flatnonzero(np.diff(unit_of[inner])), len(inner) - 1)
        order = np.lexsort((points, extra.time[rows][inner][last]))
        points[order] = 1 - (np.arange(len(units)) + 0.5) / len(units)  # the latest first
    elif spec.split.stratify:
        for label in np.unique(facts.target[units]):
            members = np.flatnonzero(facts.target[units] == label)
            points[members[np.argsort(points[members])]] = (np.arange(len(members)) + 0.5) / len(members)
    side = np.where(points < shares[1], TEST, np.where(points < sum(shares), VALIDATION, TRAIN))
    for split, share in ((VALIDATION, shares[0]), (TEST, shares[1])):
        if share > 0 and not (side == split).any() and (side == TRAIN).sum() > 1:
            left = np.flatnonzero(side == TRAIN)
            side[left[np.argmin(points[left])]] = split
    placing.split[rows] = side[unit_of]


def _point(key: int, seed: int) -> float:
    """A number from 0 to 1 that depends on the seed and the key only."""
    digest = hashlib.blake2b(f"{seed}\n{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
