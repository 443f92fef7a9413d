"""Rows to layouts: several encoded rows on one axis, a prefix that they all share computed only once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.encode.types import Encoded, Layout, Segment

MIN_SHARED = 8  # a shorter common prefix (one control token and a role name) is not worth a segment of its own


def shared_prefix(rows: Sequence[Encoded]) -> int:
    """How many leading tokens all rows have in common, none of them trained, leaving each row a token of its own."""
    if len(rows) < 2 or any(row.parts for row in rows):
        return 0
    length = min(len(row.ids) for row in rows) - 1
    first = rows[0].ids[:length]
    for row in rows[1:]:
        differs = np.flatnonzero(first != row.ids[: len(first)])
        first = first[: differs[0]] if len(differs) else first
    length = len(first)
    for row in rows:
        trained = np.flatnonzero(row.weights[:length])
        length = int(trained[0]) if len(trained) else length
    return length if length >= MIN_SHARED else 0


def make_layout(rows: Sequence[Encoded], *, share_prefix: bool, fill: bool = False, device: str = "cpu") -> Layout:
    """The rows as one layout. Row i's token j sits at position j, whatever else lies on the axis.

    `fill` adds a segment that nobody reads, up to a round length: every new shape of a matrix product costs oneDNN 0.3 ms
    and 0.5 MiB for its code, which it keeps of the last 1,024.
    """
    prefix = shared_prefix(rows) if share_prefix else 0
    ids, positions, segments = [], [], []
    sources, labels, weights = [], [], []
    start = 0
    if prefix:
        ids.append(rows[0].ids[:prefix])
        positions.append(np.arange(prefix))
        segments.append(Segment(0, prefix))
        start = prefix
    for row in rows:
        ids.append(row.ids[prefix:])
        at, wanted, weight = scored(row)
        sources.append(np.where(at < prefix, at, at - prefix + start))
        labels.append(wanted)
        weights.append(weight)
        for length in row.parts or (len(row.ids) - prefix,):
            positions.append(np.arange(prefix, prefix + length))
            segments.append(Segment(start, start + length, 0 if prefix else None))
            start += length
    types = [row.types for row in rows if row.types is not None]
    if fill and (extra := -start % (32 if start < 1024 else 64)):
        ids.append(np.full(extra, rows[0].ids[0]))
        positions.append(np.zeros(extra, np.int64))
        segments.append(Segment(start, start + extra))
        types += [np.zeros(extra, np.uint8)] if types else []
    return Layout(
        ids=_tensor(ids, np.int64, device),
        positions=_tensor(positions, np.int64, device),
        segments=tuple(segments),
        sources=_tensor(sources, np.int64, device),
        labels=_tensor(labels, np.int64 if labels[0].dtype.kind == "i" else np.float32, device),
        weights=_tensor(weights, np.float32, device),
        tokens=sum(len(row.ids) for row in rows),
        types=_tensor(types, np.int64, device) if types else None,
    )


def scored(row: Encoded) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(positions, labels, weights) of what a row trains: its targets, or its weighted tokens, each from the one before."""
    if row.targets is not None:
        return row.targets.sources, row.targets.labels, row.targets.weights
    targets = np.flatnonzero(row.weights)
    targets = targets[targets > 0]  # the first token of a row has nothing before it to be predicted from
    return targets - 1, row.ids[targets], row.weights[targets]


def _tensor(parts: list[np.ndarray], dtype: type, device: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(dtype)).to(device)
