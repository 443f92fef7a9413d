"""Attention over keys and values that are stored: the new tokens of one sequence, or one token each of many."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tutelage.generate.keys_values import KeysValues, Pool
from tutelage.generate.runner import Chunk


class Piece:
    """New tokens of one sequence, by themselves."""

    def __init__(self, state: KeysValues, start: int, stop: int, mask: Tensor | None) -> None:
        self.state, self.mask, self.rows = state, mask, slice(start, stop)
        self.read, self.length = len(state.ids), len(state.ids) + stop - start

    def attend(self, layer: int, q: Tensor, kv: Tensor, scale: float) -> Tensor:
        """[new, heads x head] of `q` [rows, heads, head]; `kv` [rows, 2, key-value heads, head] is stored on the way."""
        stored = self.state.data[layer]
        stored[:, :, self.read : self.length] = kv[self.rows].permute(1, 2, 0, 3)
        keys, values = stored[0, :, : self.length], stored[1, :, : self.length]
        attended = scaled_dot_product_attention(
            q[self.rows].transpose(0, 1)[None], keys[None], values[None], attn_mask=self.mask,
            is_causal=self.mask is None and self.length > 1 and self.read == 0, scale=scale, enable_gqa=True,
        )  # fmt: skip
        return attended[0].transpose(0, 1).flatten(1)


class Together:
    """The sequences of one pool that read one token each.

    The queries of the heads that share keys stand as so many tokens of one head: a call for all of them, in which keys are read
    once. For one sequence of 120 tokens that takes 39 µs; with a query for each head 48, as two products 173.
    """

    def __init__(self, pool: Pool, members: Sequence[tuple[int, KeysValues]], rows: int, dtype: torch.dtype) -> None:
        """`members` are the row and the sequence of each; `rows` are all rows that there are."""
        count = len(pool.members)
        self.rows = torch.tensor([row for row, _ in members])
        self.members = torch.tensor([state.place for _, state in members])
        self.places = torch.tensor([len(state.ids) for _, state in members])
        first = members[0][0]
        dense = [(row, state.place) for row, state in members] == [(first + i, i) for i in range(count)]
        self.span = slice(first, first + count) if dense else None
        self.all = dense and count == rows
        self.row_of = torch.zeros(count, dtype=torch.long).index_copy_(0, self.members, self.rows)
        lengths = torch.ones(count, dtype=torch.long).index_copy_(0, self.members, self.places + 1)
        self.longest = int(lengths.max())
        behind = torch.arange(self.longest) >= lengths[:, None]
        mask = torch.zeros(behind.shape, dtype=dtype).masked_fill_(behind, float("-inf"))
        self.mask = mask[:, None, None] if bool(behind.any()) else None
        # all layers' views at once: made one by one they take 7 µs a layer
        self.layers = pool.data.unbind(0)
        self.keys = pool.data[:, 0, :count, :, : self.longest].unbind(0)
        self.values = pool.data[:, 1, :count, :, : self.longest].unbind(0)
        alone = dense and count == 1
        self.slots = pool.data[:, :, 0, :, int(self.places[0])].unbind(0) if alone else None
        self.grouped = (count, pool.shape.heads, -1, pool.shape.head)

    def attend(self, layer: int, q: Tensor, kv: Tensor, scale: float) -> Tensor:
        """[members, heads x head]; arguments as for `Piece`. The pool's other members are computed too, and left out."""
        if not self.all:
            q, kv = (q[self.row_of], kv[self.rows]) if self.span is None else (q[self.span], kv[self.span])
        if self.slots is None:
            self.layers[layer][:, self.members, :, self.places] = kv
        else:
            self.slots[layer].copy_(kv[0])
        keys, values = self.keys[layer], self.values[layer]
        attended = scaled_dot_product_attention(
            q.reshape(self.grouped), keys, values, attn_mask=self.mask, scale=scale
        ).flatten(1)  # fmt: skip
        return attended[self.members] if self.span is None else attended


def apart(parts: Sequence[Piece | Together]) -> Callable[[int, Tensor, Tensor, float], Tensor]:
    """The `attend` of all rows, each of which is in one of the parts."""

    def attend(layer: int, q: Tensor, kv: Tensor, scale: float) -> Tensor:
        found = torch.empty(len(q), q.shape[1] * q.shape[2], dtype=q.dtype)
        for part in parts:
            found[part.rows] = part.attend(layer, q, kv, scale)
        return found

    return attend


def side_by_side(chunk: Chunk, fast: bool) -> tuple[str, int, int]:
    """What chunks are sorted by: adapters in one piece, and in them the tokens that attend together as they lie in their pool."""
    alone = not fast or len(chunk.ids) > 1
    return (chunk.adapter or "", 0, 0) if alone else (chunk.adapter or "", chunk.state.room, chunk.state.place)


def causal_mask(new: int, read: int, dtype: torch.dtype) -> Tensor | None:
    """Which places each of `new` tokens behind `read` others sees; None where nothing or plain causality needs saying."""
    if new == 1 or read == 0:
        return None
    mask = torch.zeros(new, read + new, dtype=dtype)
    return mask.masked_fill_(torch.ones(new, read + new, dtype=torch.bool).triu_(read + 1), float("-inf"))
