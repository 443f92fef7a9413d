"""The micro-batch budget that fits into memory. What a token keeps is counted on this model, not guessed."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tutelage.encode.layout import make_layout
from tutelage.encode.rows import Rows
from tutelage.encode.types import Encoded
from tutelage.engine.loss import CHUNK_VALUES
from tutelage.engine.memory import Room, room, saved_bytes
from tutelage.engine.plan import QUERY_BLOCK
from tutelage.engine.stack import Keep
from tutelage.train.loop import MIN_BUDGET, TrainState

PROBES = (24, 72)  # tokens of two forward passes; what does not grow between them is not per token
USABLE = 0.85  # of the room: allocators leave gaps
TRANSIENT = 4  # tensors as large as the largest saved one that the backward pass holds at a time
SPARE = 64 * 2**20  # what libraries take at their first use
RECOMPUTED = {
    "all": "", "attention": ", and a part of each layer computed twice", "input": ", and each layer computed twice",
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """Bytes that training takes beyond what is loaded now: `fixed`, and `per_token` of a micro-batch."""

    fixed: int
    per_token: float

    def of(self, tokens: int) -> int:
        """Bytes with micro-batches of `tokens` tokens."""
        return int(self.fixed + self.per_token * tokens)


def need_of(state: TrainState) -> Need:
    """Counted in two short forward passes of this model on its own first row; nothing is changed by them."""
    per_token = _per_token(state)
    if state.plan.keep != "all":  # one layer at a time is computed again, whole
        whole = replace(state, backbone=state.backbone.keeping(Keep.ALL))
        per_token += _per_token(whole) / state.backbone.model.config.get_text_config().num_hidden_layers
        state.adopt(state.plan)
    trained, config = state.trainable.count, state.backbone.model.config.get_text_config()
    head: Any = getattr(state.backbone.head, "weight", None)
    rows = 0 if head is None else head.shape[0]
    chunk = min(CHUNK_VALUES, rows * state.plan.tokens) * 4 * (4 if state.anchored else 2)  # and the base model's
    longest = int(Rows.of(state.train_rows).lengths.max())
    scores = config.num_attention_heads * min(QUERY_BLOCK, longest) * longest * 4 * 3
    doubled = head.numel() * 4 if head is not None and head.requires_grad else 0  # its gradient, while it is added up
    fixed = trained * 4 + state.optimizer.missing_bytes() + chunk + scores + doubled + SPARE
    return Need(int(fixed), per_token)


def _per_token(state: TrainState) -> float:
    layouts = [_layout(state, tokens) for tokens in PROBES]
    small, large = (_kept(state, layout) for layout in layouts)
    tokens = len(layouts[1].ids) - len(layouts[0].ids)
    return (large[0] - small[0] + TRANSIENT * (large[1] - small[1])) / max(tokens, 1)


def _layout(state: TrainState, tokens: int) -> Any:
    """A micro-batch of `tokens` tokens, all of them trained; of tasks with targets, as many copies of a row as that takes."""
    row = state.train_rows[0]
    if row.targets is not None or row.source is not None:
        copies = [row] * math.ceil(tokens / len(row.ids) + (tokens == PROBES[1]))
        plan = replace(state.plan, tokens=1 << 30, share_prefix=False)
        return state.layouts_of(copies if plan.packed or row.source is not None else [row], plan)[0]
    ids = np.resize(row.ids, tokens)
    made = Encoded(ids, np.ones(tokens, np.float32), np.zeros(tokens, np.uint8), row.at)
    return make_layout([made], share_prefix=False, device=state.plan.device)


def _kept(state: TrainState, layout: Any) -> tuple[int, int]:
    """Bytes that a forward pass over `layout` keeps; and of its largest tensor."""
    with torch.enable_grad(), saved_bytes(state.backbone.model) as kept:
        state.loss_of(state.backbone, layout)
    return kept.bytes, kept.largest


def fit_budget(state: TrainState, say: Callable[[str], None], free: Room | None = None) -> Need | None:
    """Lower the plan's budget to what fits into memory, aloud, and note the room in the plan.

    A plan that has its note is obeyed, unless a hard limit has come down since: then the run would only be killed.
    """
    free, first = free or room(), state.plan.room_mib is None and state.step == 0
    if free is None or state.plan.device != "cpu":
        return None
    need = need_of(state)
    if first:
        state.plan = replace(state.plan, room_mib=free.bytes // 2**20)
    used = min(state.plan.tokens, most_tokens(state))
    if need.of(used) <= USABLE * free.bytes or not (first or free.hard):
        return need
    before, wanted, longest = state.plan.tokens, need.of(used), int(Rows.of(state.train_rows).lengths.max())
    for keep in sorted((each for each in Keep if each <= Keep[state.plan.keep.upper()]), reverse=True):
        if keep.name.lower() != state.plan.keep:
            state.adopt(replace(state.plan, keep=keep.name.lower()))
            need = need_of(state)
        fitting = int((USABLE * free.bytes - need.fixed) / need.per_token)
        if fitting >= longest:  # no budget makes a micro-batch shorter than the longest row
            break
    state.adopt(replace(state.plan, tokens=max(MIN_BUDGET, min(fitting, before))))
    say(
        f"note: micro-batches of at most {state.plan.tokens:,} tokens instead of {before:,}{RECOMPUTED[state.plan.keep]}: "
        f"{free.source} leaves {free.bytes / 2**20:,.0f} MiB, and they would take about {wanted / 2**20:,.0f}"
        + ("" if first else "; the last bits of the run may differ from one that had more")
    )
    return need


def most_tokens(state: TrainState) -> int:
    """The tokens of the fullest micro-batch that a step can have: of its longest rows together, or of the longest one."""
    lengths = np.sort(Rows.of(state.train_rows).lengths)[::-1]
    return int(lengths[: state.optim.batch_size].sum() if state.plan.packed else lengths[0])
