"""Any causal model over many sequences, one sequence after the other, through its own forward pass."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.generate.decode import Memory, context_limit, read
from tutelage.generate.runner import Chunk


class PlainState:
    """What a sequence's cache has read."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.memory = Memory()

    @property
    def room(self) -> int:
        """Tokens that memory is held for."""
        return len(self.ids)

    def rest(self) -> None:
        """A cache has no more than what is there."""

    def drop(self) -> None:
        """Hold nothing any more."""
        self.ids, self.memory = [], Memory()


class PlainRunner:
    """Slower than LlamaRunner, and right for every family: the reference that the other one is held to."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.context = context_limit(model)

    def begin(self, older: PlainState | None, shared: int) -> PlainState:
        state = PlainState()
        if older is not None and shared == len(older.ids):  # caches with windows cannot be cut, so none is
            state.memory, state.ids = copy.deepcopy(older.memory), list(older.ids)
        return state

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        rows = []
        for chunk in chunks:
            rows.append(read(self.model, list(chunk.ids), chunk.state.memory).float())
            chunk.state.ids.extend(chunk.ids)
        return torch.stack(rows)
