"""Encoded rows to micro-batches, and back: what comes out of each layout goes to the row it belongs to."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tutelage.encode.batches import micro_batches
from tutelage.encode.layout import make_layout, scored, shared_prefix
from tutelage.encode.types import Encoded, Layout
from tutelage.engine.precision import ExecutionPlan


def groups(rows: Sequence[Encoded], plan: ExecutionPlan) -> list[list[int]]:
    """Row numbers of each packed micro-batch of at most the plan's budget; alone where the model cannot pack."""
    if not plan.packed:
        return [[index] for index in range(len(rows))]
    prefix = shared_prefix(rows) if plan.share_prefix else 0
    lengths = [len(row.ids) - prefix for row in rows]
    return micro_batches(range(len(rows)), lengths, max(plan.tokens - prefix, 1))


def packed(rows: Sequence[Encoded], plan: ExecutionPlan) -> list[Layout]:
    """The rows as packed micro-batches."""
    return [_layout([rows[i] for i in group], plan) for group in groups(rows, plan)]


def _layout(rows: Sequence[Encoded], plan: ExecutionPlan) -> Layout:
    share = plan.packed and plan.share_prefix
    return make_layout(rows, share_prefix=share, fill=plan.packed, device=plan.device)


def per_row(rows: Sequence[Encoded], plan: ExecutionPlan, compute: Callable[[Layout], Tensor]) -> list[Tensor]:
    """`compute(layout)` gives a value per target ([M, ...]); here they are for each row, in the rows' order."""
    results: dict[int, Tensor] = {}
    with torch.no_grad():
        for group in groups(rows, plan):
            chosen = [rows[i] for i in group]
            values = compute(_layout(chosen, plan)).cpu()
            counts = [len(scored(row)[0]) for row in chosen]
            results |= dict(zip(group, torch.split(values, counts)))
    return [results[i] for i in range(len(rows))]


def varied(task: object, row: Encoded, seed: int, epoch: int, number: int) -> Encoded:
    """The row as epoch `epoch` sees it: a pure function of seed, epoch and row number, for tasks that vary theirs."""
    vary = getattr(task, "vary", None)
    if vary is None:
        return row
    changed: Encoded = vary(row, np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[number, 0, 0, 1])))
    return changed
