"""What an export is: how it is written, how it is opened again, and how far it may differ from the trained model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from tutelage.encode.template import Template
from tutelage.methods.opening import Located
from tutelage.registry import Registry


@dataclass(frozen=True)
class Source:
    """The trained model as it is exported, in float32. `model` has its adapter beside its weights, as it was trained."""

    located: Located
    model: Any
    tokenizer: Any
    template: Template


@dataclass(frozen=True)
class Bounds:
    """How far an export may differ from the trained model. None: reported, not bounded."""

    logit_difference: float | None = None  # largest absolute difference of a logit
    agreement: float = 0.0  # least share of tokens on which both models agree
    loss: float | None = None  # largest relative change of the loss per token


class Figures(Protocol):
    """What a parity gate saw."""

    @property
    def held_out(self) -> bool:
        """Whether the compared rows were held out of training."""
        ...

    def as_json(self) -> dict[str, Any]:
        """The figures as parity.json holds them."""
        ...

    def as_text(self) -> str:
        """The card's section."""
        ...


class Replica(Protocol):
    """An artefact, opened again by what will run it."""

    runner: str

    def logits(self, ids: Sequence[int], start: int) -> Tensor:
        """[len(ids) - start, vocabulary] float32: the logits behind each of ids[start:]."""
        ...

    def ids_of(self, text: str, *, special: bool) -> list[int]:
        """The ids of `text`; with `special`, control tokens in it are control tokens."""
        ...

    def template_text(self) -> str | None:
        """The chat template that the artefact carries."""
        ...

    def stop_ids(self) -> frozenset[int]:
        """The ids at which the runner ends an answer."""
        ...

    def close(self) -> None:
        """Give its memory back."""
        ...


class Exporter(Protocol):
    """One kind of export."""

    precisions: tuple[str, ...]  # the first is the default

    def write(self, source: Source, folder: Path, precision: str) -> None:
        """Write the artefact into the empty `folder`."""
        ...

    def reopen(self, source: Source, folder: Path) -> Replica:
        """The artefact in `folder`, opened from its files alone (a PEFT adapter: with its base model)."""
        ...

    def bounds(self, precision: str) -> Bounds:
        """What the parity gate holds this precision to."""
        ...


EXPORTERS: Registry[Exporter] = Registry("kind of export")

ENCODER_KINDS: dict[str, tuple[str, ...]] = {"onnx": ("fp32",)}  # kinds of exports of encoders → precisions
