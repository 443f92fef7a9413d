"""What a batch of streams needs of a model: sequences that can be begun from others, and one pass over new ids of many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class State(Protocol):
    """What is remembered of one sequence. `ids` are the tokens that were read, `room` the tokens it takes memory for."""

    ids: list[int]

    @property
    def room(self) -> int:
        """Tokens that memory is held for."""
        ...

    def rest(self) -> None:
        """Nothing is read for now: hold no more than what is there."""
        ...

    def drop(self) -> None:
        """Hold nothing any more."""
        ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """New ids behind what `state` has read. `adapter` names an adapter of the runner, None the model without one."""

    state: Any
    ids: Sequence[int]
    adapter: str | None = None


class Runner(Protocol):
    """A model that reads chunks of many sequences in one pass."""

    context: int | None  # the most tokens of one sequence, if the model says

    def begin(self, older: Any | None, shared: int) -> Any:
        """A sequence that has read the first `shared` ids of `older`, which stays as it is; fewer where it cannot."""
        ...

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """[chunks, vocabulary] float32: the logits behind each chunk's last id. The states have read their chunks then."""
        ...
