"""Examples of what is trained, cut into pieces of text that a terminal or a page can colour."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tutelage.encode.rows import Rows
from tutelage.encode.template import ROLES, Template
from tutelage.encode.types import Encoded

MAX_PIECES = 4000


def pieces(template: Template, row: Encoded) -> list[list[Any]]:
    """[text, weight, role] of each stretch of tokens with one weight and one role."""
    if not len(row.ids):
        return []
    changes = np.flatnonzero((np.diff(row.weights) != 0) | (np.diff(row.roles.astype(np.int16)) != 0)) + 1
    edges = [0, *changes.tolist(), len(row.ids)]
    return [
        [template.tokenizer.decode(row.ids[a:b].tolist()), round(float(row.weights[a]), 4), ROLES[row.roles[a]]]
        for a, b in itertools.pairwise(edges[: MAX_PIECES + 1])
    ]


def examples(template: Template, rows: Sequence[Encoded], first: int = 2) -> list[dict[str, Any]]:
    """The first rows, the longest, the most truncated and the least trained one, each with its place and pieces."""
    rows = Rows.of(rows)
    if not rows:
        return []
    chosen: list[tuple[str, Encoded]] = [(f"row {i + 1}", row) for i, row in enumerate(rows[:first])]
    chosen.append(("the longest", rows[int(rows.lengths.argmax())]))
    shares = np.concatenate([block.trained_share() for block in rows.blocks()])
    cut = np.flatnonzero(rows.full_lengths > rows.lengths)
    if len(cut):
        chosen.append(("the most truncated", rows[int(cut[shares[cut].argmin()])]))
    chosen.append(("the least trained", rows[int(shares.argmin())]))
    return [
        {"at": str(row.at), "title": title, "tokens": len(row.ids), "targets": int(np.count_nonzero(row.weights)),
         "pieces": pieces(template, row)}
        for title, row in chosen
    ]  # fmt: skip
