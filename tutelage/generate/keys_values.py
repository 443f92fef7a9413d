"""Keys and values of one sequence, in buffers that grow, and what a new sequence can take over from an older one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STEP = 64  # tokens by which a buffer grows at first; then by a quarter


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What the buffers of one model look like."""

    layers: int
    heads: int  # key-value heads
    head: int  # values per head
    dtype: torch.dtype


class KeysValues:
    """The keys and values of `ids`: [layers, 2, heads, room, head] of which the first len(ids) places are filled."""

    def __init__(self, shape: CacheShape, room: int = 0) -> None:
        self.shape = shape
        self.ids: list[int] = []
        self.data = torch.empty(shape.layers, 2, shape.heads, room, shape.head, dtype=shape.dtype)

    @property
    def room(self) -> int:
        """How many tokens the buffer holds."""
        return self.data.shape[3]

    @property
    def nbytes(self) -> int:
        """The buffer's size."""
        return self.data.nbytes

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens in all."""
        if tokens <= self.room:
            return
        room = max(tokens, self.room + max(STEP, self.room // 4))
        grown = torch.empty(*self.data.shape[:3], room, self.shape.head, dtype=self.shape.dtype)
        filled = len(self.ids)
        grown[:, :, :, :filled] = self.data[:, :, :, :filled]
        self.data = grown

    def take(self, other: "KeysValues", tokens: int) -> None:
        """Copy the first `tokens` tokens of `other`; this one must be empty."""
        self.reserve(tokens)
        self.data[:, :, :, :tokens] = other.data[:, :, :, :tokens]
        self.ids = other.ids[:tokens]

    def layer(self, index: int, keys: Tensor, values: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Store new keys and values, [new, heads, head] each, from place `start` on; all of them as [heads, length, head]."""
        stop = start + keys.shape[0]
        stored = self.data[index]
        stored[0, :, start:stop] = keys.transpose(0, 1)
        stored[1, :, start:stop] = values.transpose(0, 1)
        return stored[0, :, :stop], stored[1, :, :stop]


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences begin with in common."""
    for i, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return i
    return min(len(one), len(other))


class Kept:
    """Finished sequences whose beginnings may come again, the least recently used ones dropped beyond `most` tokens."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: dict[int, tuple[str, KeysValues]] = {}
        self._next = 0

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return sum(keys.room for _, keys in self._kept.values())

    def add(self, owner: str, keys: KeysValues) -> None:
        """Keep `keys`, which were computed by the model called `owner`."""
        if len(keys.ids) > self.most:
            return
        for number, (other, older) in list(self._kept.items()):  # one that is a beginning of the new one adds nothing
            if other == owner and shared_length(older.ids, keys.ids) == len(older.ids):
                del self._kept[number]
        self._kept[self._next] = (owner, keys)
        self._next += 1
        while self.tokens > self.most:
            del self._kept[next(iter(self._kept))]

    def best(self, owner: str, ids: Sequence[int]) -> tuple[KeysValues | None, int]:
        """The kept sequence of this owner with the longest common beginning, and that length; it becomes the newest."""
        found, length, number = None, 0, -1
        for key, (other, keys) in self._kept.items():
            if other == owner and (common := shared_length(keys.ids, ids)) > length:
                found, length, number = keys, common, key
        if found is not None:
            self._kept[self._next] = self._kept.pop(number)
            self._next += 1
        return found, length
