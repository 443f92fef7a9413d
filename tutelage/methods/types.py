"""What a fine-tuning method is: it decides what trains, and how the result is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from tutelage.recipe import FullSpec, HalfSpec, LoraSpec
from tutelage.registry import Registry

MethodSpec = LoraSpec | FullSpec | HalfSpec


@dataclass(frozen=True)
class Draw:
    """What trains in one round: its parameters by name, and for each category of parts how many were drawn, of how many,
    and the same in values."""

    number: int
    parameters: Mapping[str, nn.Parameter]
    categories: Mapping[str, list[int]]


class Rounds(Protocol):
    """A method that lets other parameters train in each round."""

    def number(self, step: int, per_epoch: int) -> int:
        """The round of optimiser step `step`, counted from 0."""
        ...

    def enter(self, number: int) -> "Trainable":
        """Let what round `number` draws train, and nothing else."""
        ...


@dataclass(frozen=True)
class Trainable:
    """The parameters that train, by name in a fixed order; a tied parameter stands once. `total` counts all.

    `resting` ones do not train now and may in another round of `rounds`; `draw` says what this round is. `faster`: those whose
    learning rate is another, and how many times the usual one it is.
    """

    parameters: Mapping[str, nn.Parameter]
    total: int
    resting: Mapping[str, nn.Parameter] = field(default_factory=dict)
    rounds: Rounds | None = None
    draw: Draw | None = None
    faster: Mapping[str, float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Trained values."""
        return sum(parameter.numel() for parameter in self.parameters.values())


class Method(Protocol):
    """One fine-tuning method."""

    def prepare(self, model: Any, spec: Any, *, seed: int) -> Trainable:
        """Change `model` so that exactly the method's parameters train, seeded where it draws initial values."""
        ...

    def save(self, model: Any, spec: Any, folder: Path, *, base: str) -> None:
        """Write the tuned model into the empty `folder`: a PEFT adapter, or what `from_pretrained` reads."""
        ...


METHODS: Registry[Method] = Registry("method")


def trainable_of(model: Any, *, faster: Mapping[str, float] | None = None) -> Trainable:
    """All parameters that require a gradient, in the model's own order, tied ones once."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}  # yields a tied parameter once
    return Trainable(named, sum(p.numel() for p in model.parameters()), faster=faster or {})
