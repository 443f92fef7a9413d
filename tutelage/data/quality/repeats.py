"""Repeats among all rows: exact and near-duplicates, contradictions, and overlap between parts."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.data.quality import near
from tutelage.data.quality.findings import Tally, example
from tutelage.data.quality.store import Facts
from tutelage.data.types import At

Rows = NDArray[np.int64]
Keys = NDArray[np.uint64]


class Repeats:
    """Looks at the facts of all rows. `files` are the names that facts number, part 0 is training."""

    def __init__(self, facts: Facts, files: Sequence[str]) -> None:
        self.facts, self.files = facts, files

    def find(self, tally: Tally, sketches: near.Sketches, threshold: float) -> None:
        """Add all findings about repeats to `tally`."""
        train = np.flatnonzero(self.facts.part == 0)
        exact = later_of_equal(self.facts.exact[train])
        self._add("exact_duplicate", train, exact, tally)
        text = later_of_equal(self.facts.text[train])
        text[:, 1][np.isin(text[:, 1], exact[:, 1])] = -1
        self._add("normalised_duplicate", train, text[text[:, 1] >= 0], tally)
        self._contradictions(train, tally)
        self._overlap(train, tally)
        self._near(sketches, threshold, tally)

    def at(self, row: int) -> At:
        """Where a row stands."""
        return At(self.files[int(self.facts.file[row])], int(self.facts.row[row]))

    def pair(self, row: int, other: int, alike: float | None = None) -> dict[str, Any]:
        """An example of a row and the row that it is like, with their similarity if they are not equal."""
        at = self.at(other)
        text = bytes(self.facts.snippet[row]).decode("utf-8", "replace")
        found = example(self.at(row), text, of={"file": at.source, "row": at.row})
        return found if alike is None else {**found, "similarity": round(alike, 3)}

    def _add(self, kind: str, rows: Rows, found: Rows, tally: Tally) -> None:
        for first, later in found[np.argsort(found[:, 1], kind="stable")].tolist():
            tally.add(kind, self.pair(int(rows[later]), int(rows[first])))

    def _contradictions(self, rows: Rows, tally: Tally) -> None:
        for group in groups(self.facts.prompt[rows]):
            members = rows[group]
            targets = self.facts.target[members]
            if len(np.unique(targets)) > 1 and self.facts.length[members].max() > 0:
                other = members[np.flatnonzero(targets != targets[0])[0]]
                tally.add("contradiction", self.pair(int(other), int(members[0])))

    def _overlap(self, train: Rows, tally: Tally) -> None:
        held = np.flatnonzero(self.facts.part != 0)
        if not len(held) or not len(train):
            return
        prompts = self.facts.prompt[train]
        order = np.argsort(prompts, kind="stable")
        ranked = prompts[order]
        places = np.searchsorted(ranked, self.facts.prompt[held])
        places = np.minimum(places, len(ranked) - 1)
        for row, place in zip(held.tolist(), places.tolist()):
            if ranked[place] == self.facts.prompt[row]:
                tally.add("split_overlap", self.pair(row, int(train[order[place]])))

    def _near(self, sketches: near.Sketches, threshold: float, tally: Tally) -> None:
        """Near-duplicates in training, each row with its likest earlier one; held-out rows like training rows."""
        likest: dict[int, tuple[float, int]] = {}
        leaks: dict[int, tuple[float, int]] = {}
        for pair in near.pairs(sketches, threshold, different_texts(self.facts)):
            parts = self.facts.part[pair.first] == 0, self.facts.part[pair.second] == 0
            if parts == (True, True):
                likest[pair.second] = max(likest.get(pair.second, (0.0, 0)), (pair.similarity, -pair.first))
            elif any(parts) and self.facts.prompt[pair.first] != self.facts.prompt[pair.second]:
                held, train = (pair.first, pair.second) if parts[1] else (pair.second, pair.first)
                leaks[held] = max(leaks.get(held, (0.0, 0)), (pair.similarity, -train))
        for row, (alike, other) in sorted(likest.items()):
            tally.add("near_duplicate", self.pair(row, -other, alike))
        train_prompts = self.facts.prompt[self.facts.part == 0]
        known = set(np.intersect1d(self.facts.prompt[list(leaks)], train_prompts).tolist()) if leaks else set()
        for row, (alike, other) in sorted(leaks.items()):
            if int(self.facts.prompt[row]) not in known:  # that is a split_overlap
                tally.add("near_overlap", self.pair(row, -other, alike))


def different_texts(facts: Facts, way: Keys | None = None) -> Rows:
    """The first row of each text in each part, and of each `way` that rows are trained in."""
    keys = facts.text ^ (facts.part.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    keys = keys if way is None else keys + way
    return np.sort(np.unique(keys, return_index=True)[1])


def later_of_equal(keys: Keys) -> Rows:
    """(first, later) for every place whose key stood before, as an array of pairs of places."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    fresh = np.concatenate([[True], ranked[1:] != ranked[:-1]]) if len(ranked) else np.empty(0, bool)
    first = order[np.maximum.accumulate(np.where(fresh, np.arange(len(ranked)), 0))]
    return np.stack([first[~fresh], order[~fresh]], axis=1)


def groups(keys: Keys) -> Iterator[Rows]:
    """The places of each key that stands more than once, in order."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    edges = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(ranked) else np.empty(0, int)
    sizes = np.diff(np.append(edges, len(ranked)))
    repeated = sorted((order[edge : edge + size] for edge, size in zip(edges[sizes > 1], sizes[sizes > 1])), key=min)
    yield from repeated
