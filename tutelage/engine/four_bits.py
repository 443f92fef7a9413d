"""Frozen linear weights in 4 bits: what is the same whatever the 16 values of a block are (`nf4.py` and `int4.py` say which).

A weight is dequantised for each product, forward and backward alike, and nothing of it is kept.
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from tutelage.engine.linear import BaseLinear

DEQUANTISED_AT_ONCE = (
    1 << 20
)  # beyond about 32 MB the allocator maps a result anew each time, which costs more than to copy it
SCALES_PER_OUTER = 256


@dataclass(frozen=True)
class Quantisation:
    """How weights are stored. `double`: whether the scales are quantised too. `blocks`: a file that has codes and scales ready."""

    block_size: int = 64  # values per scale
    double: bool = True
    blocks: Path | None = None
    kind: Literal["nf4", "int4"] = "nf4"

    @property
    def bits(self) -> float:
        """Bits per weight: 4.127 with the defaults."""
        if self.kind == "int4":  # a scale and a lowest value
            each = 2 * (8 + 64 / SCALES_PER_OUTER if self.double else 16)
        else:
            each = 8 + 32 / SCALES_PER_OUTER if self.double else 32
        return 4 + each / self.block_size


class Scratch:
    """One buffer per dtype and device, as large as the largest weight so far. Its content lasts until the next weight: for
    one thread, and never for autograd to keep."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def get(self, values: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[values], uninitialised."""
        known = self.buffers.get((dtype, device))
        if known is None or known.numel() < values:
            with torch.inference_mode(False):  # a buffer made in an evaluation would refuse to be written in training
                self.buffers[dtype, device] = known = torch.empty(values, dtype=dtype, device=device)
        return known[:values]


class FourBitLinear(BaseLinear):
    """A linear layer whose weight is blocks of 4-bit codes; usable as a module by itself, as layers without an adapter are.

    All buffers are bytes, scales too, so that `model.to(dtype)` cannot round them. `compute` is empty: it knows the dtype
    that the model computes in.
    """

    standalone = True
    codes: Tensor  # [values / 2], two in a byte
    compute: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, how: Quantisation, scratch: Scratch) -> None:
        """For an [out, in] weight, of which nothing is kept. Frozen; a bias stays as it is."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.how, self.scratch = how, scratch
        self.register_buffer("compute", torch.empty(0, dtype=weight.dtype, device=weight.device), persistent=False)
        self.added = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @classmethod
    def of(cls, module: nn.Module, how: Quantisation, scratch: Scratch, *ready: Any) -> Self:
        """The quantised form of an nn.Linear or a Conv1D; `ready` is what the constructor takes after these."""
        inner: Any = module
        weight, turned = inner.weight.detach(), isinstance(module, Conv1D)
        made = cls(weight.t() if turned else weight, inner.bias, how, scratch, *ready)
        made.fan_in_fan_out = turned
        return made

    @abstractmethod
    def _weight(self, dtype: torch.dtype) -> Tensor:
        """[out, in] in `dtype`, for the next product alone."""

    @property
    def weight_bytes(self) -> int:
        """What the weight takes: codes and scales."""
        return sum(int(buffer.numel()) for name, buffer in self.named_buffers() if name != "compute")

    @property
    def like(self) -> Tensor:
        return self.compute

    @property
    def weight(self) -> Tensor:
        """An empty tensor of the compute dtype, for models that look at a layer's dtype (T5)."""
        return self.like

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return self.matmul(x)

    def matmul(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call,no-any-return]
        return linear(x, self._weight(x.dtype), self.added)

    def matmul_t(self, g: Tensor, into: Tensor | None = None) -> Tensor:
        weight = self._weight(g.dtype)
        return g @ weight if into is None else into.addmm_(g, weight)

    def dense(self) -> Tensor:
        return self._weight(self.like.dtype).clone()

    def bias(self) -> Tensor | None:
        return self.added

    def add_(self, delta: Tensor) -> None:
        raise TypeError("4-bit blocks cannot take up a change: dequantise the model first")

    def module(self) -> nn.Module:
        """The plain layer, its weight dequantised."""
        dense, turned = self.dense(), self.fan_in_fan_out
        with torch.device("meta"):
            plain: Any = (
                Conv1D(*dense.shape)
                if turned
                else nn.Linear(self.in_features, self.out_features, self.added is not None)
            )
        plain.weight = nn.Parameter(dense.t().contiguous() if turned else dense, requires_grad=False)
        if self.added is not None:
            plain.bias = self.added
        return plain.eval()  # type: ignore[no-any-return]


class _FrozenProduct(torch.autograd.Function):
    """x Wᵀ + b by itself. Nothing is saved: the backward dequantises again, as the scratch may hold another weight by then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: FourBitLinear) -> Tensor:
        ctx.base = base
        return base.matmul(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.base.matmul_t(gradients[0]), None
