"""What hand-written layers are to the rest: a model's body in place of its own forward."""

from enum import IntEnum
from typing import Protocol

from torch import Tensor

from tutelage.encode.types import Layout


class Keep(IntEnum):
    """What a layer saves between its forward and its backward; the rest is computed again."""

    INPUT = 0  # only its input
    ATTENTION = 1  # and queries, keys, values and the heads' output
    ALL = 2  # and the inputs of the gate or activation


class Stack(Protocol):
    """The body of a recognised model."""

    def run(self, layout: Layout, keep: Keep, pick: Tensor | None) -> Tensor | None:
        """[N, H] last hidden states, or those of the rows `pick` alone; None if a layer must run its own forward."""
        ...
