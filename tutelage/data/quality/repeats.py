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
        group = np.arange(len(self.facts))
        found: list[tuple[int, int, float]] = []
        for pair in near.pairs(sketches, threshold):
            near.join(group, pair.first, pair.second)
            parts = self.facts.part[pair.first], self.facts.part[pair.second]
            if parts == (0, 0) and self.facts.text[pair.first] != self.facts.text[pair.second]:
                found.append((pair.second, pair.first, pair.similarity))
        for later, first, alike in sorted(found):
            tally.add("near_duplicate", self.pair(later, first, alike))
        self._near_overlap(sketches, threshold, group, tally)

    def _near_overlap(self, sketches: near.Sketches, threshold: float, group: Rows, tally: Tally) -> None:
        held = np.flatnonzero(self.facts.part != 0)
        if not len(held):
            return
        roots = np.array([near.find_root(group, row) for row in range(len(group))])
        train: dict[int, list[int]] = {}
        wanted = set(roots[held].tolist())
        for row in np.flatnonzero(self.facts.part == 0).tolist():
            if roots[row] in wanted:
                train.setdefault(int(roots[row]), []).append(row)
        for row in held.tolist():
            others = train.get(int(roots[row]), [])[: near.LEADERS]
            if any(self.facts.prompt[row] == self.facts.prompt[other] for other in others):
                continue  # that is a split_overlap
            alike, other = max(((near.similarity(sketches, row, each), each) for each in others), default=(0.0, 0))
            if alike >= threshold:
                tally.add("near_overlap", self.pair(row, other, alike))


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
