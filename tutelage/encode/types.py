"""Tokens and what is trained on: encoded rows, and the layout that attention and loss see."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tutelage.data.types import At

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Targets:
    """What a row trains other than its next tokens: the hidden state at `sources[j]` is scored against `labels[j]`.

    `sources`: [M] positions within the row. `labels`: [M] class numbers or scores, or [M, C] in {0, 1} for several labels.
    `weights`: [M] loss weights.
    """

    sources: NDArray[np.int32]
    labels: NDArray[Any]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as tokens. `weights[i]` is the loss weight of predicting `ids[i]` from `ids[:i]`; 0 is not trained.

    `roles[i]` tells whose text token i is: an index into `encode.template.ROLES`. With `targets` those are what is
    trained, and `weights` only marks the tokens whose hidden state is used.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    roles: NDArray[np.uint8]
    at: At
    cut: bool = False  # lost its end to `max_tokens`
    targets: Targets | None = None
    types: NDArray[np.uint8] | None = None  # BERT's token types: 1 in the second of two texts
    source: NDArray[np.int32] | None = None  # what an encoder-decoder's encoder reads; `ids` are then the decoder's
    parts: tuple[int, ...] = ()  # lengths of texts in this row that must not see each other; empty: one text


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [start, stop) of a layout. They see themselves causally and, before that, all of segment `parent`."""

    start: int
    stop: int
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """One micro-batch on one axis of N tokens. Packing: segments without parents. Prefix sharing: with parents.

    `ids`, `positions`: [N] int64. `sources`, `labels`: [M] int64 and `weights`: [M] float32: the hidden state at
    `sources[j]` predicts token `labels[j]` with loss weight `weights[j]`. Tasks with a head of their own have labels of
    theirs (`Targets`).
    """

    ids: "torch.Tensor"
    positions: "torch.Tensor"
    segments: tuple[Segment, ...]
    sources: "torch.Tensor"
    labels: "torch.Tensor"
    weights: "torch.Tensor"
    tokens: int  # tokens of the rows themselves, a shared prefix counted once for every row
    types: "torch.Tensor | None" = None  # [N] int64
