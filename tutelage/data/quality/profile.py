"""What the rows are like: counts, lengths, turns, labels, columns. Profiles of parts add up to the whole's."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tutelage.data.formats.format import RowDict
from tutelage.data.jsonvalue import type_name
from tutelage.data.quality.groups import mentioned
from tutelage.data.quality.view import View
from tutelage.data.types import At

STEP = math.log(1.1)  # lengths are counted in bins that are 10 % wide
MOST_LABELS = 1000  # more different labels than this are no labels
MOST_VALUES = 60  # of a column; more are no categories
LONGEST_LABEL = 60
SAMPLE = 600  # texts whose language is looked at
SAMPLE_CHARACTERS = 400


@dataclass
class Column:
    """What stands under one key of a file's rows: types with their first place, and values if they are few."""

    types: Counter[str] = field(default_factory=Counter)
    first: dict[str, At] = field(default_factory=dict)
    values: Counter[str] | None = field(default_factory=Counter)
    value_at: dict[str, At] = field(default_factory=dict)

    def add(self, value: object, at: At) -> None:
        """Count one value."""
        name = type_name(value)
        self.types[name] += 1
        self.first.setdefault(name, at)
        if isinstance(value, str) and self.values is not None:
            self.add_value(value, 1, at)

    def add_value(self, value: str, count: int, at: At) -> None:
        """Count a text; a column with many or long texts has no categories."""
        if self.values is None:
            return
        self.values[value] += count
        self.value_at.setdefault(value, at)
        if len(value) > LONGEST_LABEL or len(self.values) > MOST_VALUES:
            self.values, self.value_at = None, {}

    def merge(self, later: "Column") -> None:
        """Add what comes after."""
        self.types.update(later.types)
        self.first = later.first | self.first
        if later.values is None:
            self.values, self.value_at = None, {}
        for value, count in (later.values or {}).items():
            self.add_value(value, count, later.value_at[value])


@dataclass
class Profile:
    """Distributions over all rows."""

    rows: Counter[str] = field(default_factory=Counter)  # per file
    formats: dict[str, Counter[str]] = field(default_factory=dict)  # per file
    format_at: dict[str, dict[str, At]] = field(default_factory=dict)  # per file
    columns: dict[str, dict[str, Column]] = field(default_factory=dict)  # per file
    prompt_lengths: Counter[int] = field(default_factory=Counter)  # bin → rows
    answer_lengths: Counter[int] = field(default_factory=Counter)
    longest: int = 0
    turns: Counter[int] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    label_at: dict[str, At] = field(default_factory=dict)
    labelled: bool = True
    mentions: dict[str, Counter[str]] = field(default_factory=dict)  # group of people → labels of rows that name it
    mention_at: dict[str, At] = field(default_factory=dict)
    with_system: int = 0
    without_system: int = 0
    without_system_at: list[tuple[At, str]] = field(default_factory=list)
    languages: Counter[str] = field(default_factory=Counter)
    sample: list[tuple[int, str, At]] = field(default_factory=list)  # the texts with the smallest keys

    def add_row(self, row: RowDict, at: At) -> None:
        """Count one row and the types in its columns."""
        self.rows[at.source] += 1
        self.formats.setdefault(at.source, Counter())
        columns = self.columns.setdefault(at.source, {})
        for name, value in row.items():
            columns.setdefault(name, Column()).add(value, at)

    def add(self, seen: View, at: At, key: int) -> None:
        """Count what a row that keeps its format holds."""
        self.formats[at.source][seen.format] += 1
        self.format_at.setdefault(at.source, {}).setdefault(seen.format, at)
        self.prompt_lengths[length_bin(len(seen.prompt))] += 1
        if seen.answer is not None:
            self.answer_lengths[length_bin(len(seen.answer))] += 1
        self.longest = max(self.longest, len(seen.prompt) + len(seen.answer or ""))
        if seen.turns:
            self._add_turns(seen, at)
        if seen.label is not None:
            self.add_label(seen.label, 1, at)
            for group in mentioned(seen.prompt):
                self.mentions.setdefault(group, Counter())[seen.label] += 1
                self.mention_at.setdefault(group, at)
        self.sample.append((key, (seen.answer or seen.prompt)[:SAMPLE_CHARACTERS], at))
        if len(self.sample) > 4 * SAMPLE:
            self.trim()

    def _add_turns(self, seen: View, at: At) -> None:
        self.turns[sum(role == "assistant" for role, _ in seen.turns)] += 1
        if any(role == "system" for role, _ in seen.turns):
            self.with_system += 1
        else:
            self.without_system += 1
            if len(self.without_system_at) < 10:
                self.without_system_at.append((at, seen.prompt))

    def add_label(self, label: str, count: int, at: At) -> None:
        """Count a label; too many different ones are no labels."""
        if self.labelled:
            self.labels[label] += count
            self.label_at.setdefault(label, at)
            if len(self.labels) > MOST_LABELS:
                self.labelled, self.labels, self.label_at = False, Counter(), {}

    def trim(self) -> None:
        """Keep no more texts than the sample is to have."""
        self.sample = sorted(self.sample)[:SAMPLE]

    def merge(self, later: "Profile") -> None:
        """Add the profile of rows that come after these."""
        for name in ("rows", "prompt_lengths", "answer_lengths", "turns"):
            getattr(self, name).update(getattr(later, name))
        for file, formats in later.formats.items():
            self.formats.setdefault(file, Counter()).update(formats)
        for file, places in later.format_at.items():
            self.format_at[file] = places | self.format_at.get(file, {})
        for file, columns in later.columns.items():
            mine = self.columns.setdefault(file, {})
            for name, column in columns.items():
                mine.setdefault(name, Column()).merge(column)
        self.longest = max(self.longest, later.longest)
        if not later.labelled:
            self.labelled, self.labels, self.label_at = False, Counter(), {}
        for label, count in later.labels.items():
            self.add_label(label, count, later.label_at[label])
        for group, counts in later.mentions.items():
            self.mentions.setdefault(group, Counter()).update(counts)
        self.mention_at = later.mention_at | self.mention_at
        self.with_system += later.with_system
        self.without_system += later.without_system
        self.without_system_at = (self.without_system_at + later.without_system_at)[:10]
        self.sample += later.sample
        self.trim()


def length_bin(length: int) -> int:
    """The bin of a length in characters: 0 for 0, else bins 10 % wide."""
    return 0 if length <= 0 else 1 + int(math.log(length) / STEP)


def bin_start(index: int) -> int:
    """The smallest length in a bin."""
    return 0 if index == 0 else math.ceil(math.exp((index - 1) * STEP) - 1e-9)


def quantiles(lengths: Counter[int]) -> dict[str, int]:
    """Median, 95th percentile and so on, to within a bin's width."""
    total, wanted = lengths.total(), {"p5": 0.05, "median": 0.5, "p95": 0.95, "p99": 0.99}
    result: dict[str, int] = {}
    for name, share in wanted.items():
        below = 0
        for index in sorted(lengths):
            below += lengths[index]
            if below >= share * total:
                result[name] = bin_start(index)
                break
    return result


def histogram(lengths: Counter[int]) -> dict[str, int]:
    """Rows per range of lengths; each range begins at twice the one before."""
    ranges: Counter[int] = Counter()
    for index, rows in lengths.items():
        ranges[bin_start(index).bit_length()] += rows
    names = {power: f"{2 ** (power - 1):,} to {2**power - 1:,}" if power else "0" for power in ranges}
    return {names[power]: ranges[power] for power in sorted(ranges)}


def as_json(profile: Profile) -> dict[str, Any]:
    """The profile for the report."""
    return {
        "files": [
            {
                "file": file,
                "rows": rows,
                "formats": dict(profile.formats[file]),
                "columns": {
                    name: {"types": dict(column.types), "missing": rows - column.types.total() + column.types["null"]}
                    for name, column in profile.columns[file].items()
                },
            }
            for file, rows in profile.rows.items()
        ],
        "characters": {
            "prompt": quantiles(profile.prompt_lengths),
            "answer": quantiles(profile.answer_lengths),
            "longest_row": profile.longest,
        },
        "histograms": {"prompt": histogram(profile.prompt_lengths), "answer": histogram(profile.answer_lengths)},
        "assistant_turns": {str(turns): count for turns, count in sorted(profile.turns.items())},
        "labels": dict(profile.labels.most_common()),
        "groups": {group: dict(counts.most_common(10)) for group, counts in sorted(profile.mentions.items())},
        "languages": dict(profile.languages.most_common()),
    }
