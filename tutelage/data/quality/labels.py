"""What the labels as a whole show: variants of one name, rare ones, imbalance, connections with mentioned groups."""

import re
from collections import Counter
from collections.abc import Iterator

from tutelage.data.quality.findings import Tally, example
from tutelage.data.quality.groups import connections
from tutelage.data.quality.profile import Profile
from tutelage.data.types import At

FEW = 5
IMBALANCE = 10.0  # the most frequent label has this many times the rows of the rarest


def look_at_labels(profile: Profile, tally: Tally) -> None:
    """Add findings about the labels and about columns that are used like labels."""
    labels = profile.labels
    for variants in _variants(labels):
        tally.add("label_variants", _example(profile.label_at[variants[1]], variants, labels))
    for file, columns in profile.columns.items():
        for name, column in columns.items():
            if column.values is None or (labels and set(column.values) <= set(labels)) or name.startswith("_"):
                continue
            if len(column.values) * 4 > column.types.total():
                continue  # nearly every row has a value of its own: no categories
            for variants in _variants(column.values):
                at = column.value_at[variants[1]]
                tally.add("label_variants", _example(At(file, at.row), variants, column.values, name))
    if len(labels) < 2:
        return
    for label, count in sorted(labels.items(), key=lambda item: item[1]):
        if count < FEW:
            tally.add("rare_label", example(profile.label_at[label], label, f"{count} rows"))
    for group, label, share, expected, rows in connections(labels, profile.mentions):
        detail = f"{rows:,} rows name {group}: {label!r} in {share:.0%} of them, in {expected:.0%} of all"
        tally.add("identity_imbalance", example(profile.mention_at[group], detail=detail))
    (most, most_count), (least, least_count) = labels.most_common(1)[0], labels.most_common()[-1]
    if most_count >= IMBALANCE * least_count:
        detail = f"{most!r} has {most_count:,} rows, {least!r} {least_count:,}"
        tally.add("label_imbalance", example(profile.label_at[least], detail=detail))


def _variants(labels: Counter[str]) -> Iterator[list[str]]:
    names: dict[str, list[str]] = {}
    for label in labels:
        names.setdefault(re.sub(r"[\W_]+", " ", label.casefold()).strip(), []).append(label)
    yield from (sorted(found, key=lambda label: -labels[label]) for name, found in names.items() if len(found) > 1)


def _example(at: At, variants: list[str], counts: Counter[str], column: str = "") -> dict[str, object]:
    written = ", ".join(f"{label!r} ({counts[label]:,})" for label in variants[:6])
    return example(at, detail=f"column `{column}`: {written}" if column else written)
