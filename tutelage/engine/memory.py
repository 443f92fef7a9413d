"""What a forward pass keeps for its backward pass, counted instead of guessed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Kept:
    """Bytes of the tensors that autograd saved, each storage once; those of the model itself are not counted."""

    bytes: int = 0
    seen: set[int] = field(default_factory=set)


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[Kept]:
    """Counts what the graph of `model` that is built inside saves for its backward pass."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = Kept(seen=own)

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in kept.seen:
            kept.seen.add(place)
            kept.bytes += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
