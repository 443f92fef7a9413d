"""What hand-written layers are to the rest: a model's body in place of its own forward."""

from enum import IntEnum
from typing import Any, Protocol

from torch import Tensor

from tutelage.encode.types import Layout


class Keep(IntEnum):
    """What a layer saves between its forward and its backward; the rest is computed again."""

    INPUT = 0  # only its input
    ATTENTION = 1  # and queries, keys, values and the heads' output
    ALL = 2  # and the inputs of the gate or activation


class Stack(Protocol):
    """The body of a recognised model."""

    def knows_linear_layers(self) -> bool:
        """Whether every linear layer is of a kind that these layers compute, once a method has wrapped them."""
        ...

    def run(self, layout: Layout, keep: Keep, pick: Tensor | None, embeddings: Tensor | None = None) -> Tensor | None:
        """[N, H] last hidden states, or those of the rows `pick` alone; None if a layer must run its own forward.

        `embeddings` [N, H] stand in for those of the layout's ids.
        """
        ...

    def on(self, body: Any) -> "Stack":
        """The same layers over a copy of the body."""
        ...
