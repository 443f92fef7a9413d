"""Frozen linear weights behind one small interface, so that LoRA is written once for all storage kinds."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class BaseLinear(nn.Module, ABC):
    """A frozen [out, in] weight, however it is stored. x is [..., in], g is [..., out]."""

    in_features: int
    out_features: int
    fan_in_fan_out: bool = False  # PEFT's word for weights stored as [in, out]

    @abstractmethod
    def matmul(self, x: Tensor) -> Tensor:
        """x Wᵀ + b."""

    @abstractmethod
    def matmul_t(self, g: Tensor, into: Tensor | None = None) -> Tensor:
        """g W, the gradient of `matmul` in x; added to `into` in place where that is given. g is [N, out]."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The weight as an [out, in] tensor."""

    @abstractmethod
    def add_(self, delta: Tensor) -> None:
        """Add an [out, in] tensor to the weight in place."""

    @abstractmethod
    def module(self) -> nn.Module:
        """The original module."""

    def product(self, x: Tensor) -> Tensor:
        """x Wᵀ, without the bias."""
        return x @ self.dense().t()

    def bias(self) -> Tensor | None:
        """b [out], or None."""
        bias: Tensor | None = self.module().bias  # type: ignore[assignment]
        return bias


class DenseLinear(BaseLinear):
    """An nn.Linear as it is."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.inner = linear
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def matmul(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.inner.weight, self.inner.bias)

    def matmul_t(self, g: Tensor, into: Tensor | None = None) -> Tensor:
        return g @ self.inner.weight if into is None else into.addmm_(g, self.inner.weight)

    def dense(self) -> Tensor:
        return self.inner.weight

    def add_(self, delta: Tensor) -> None:
        with torch.no_grad():
            self.inner.weight += delta.to(self.inner.weight.dtype)

    def module(self) -> nn.Module:
        return self.inner


class TransposedLinear(BaseLinear):
    """transformers' Conv1D (GPT-2): the weight is stored as [in, out]."""

    fan_in_fan_out = True

    def __init__(self, conv: Conv1D) -> None:
        super().__init__()
        self.inner: Any = conv
        self.in_features, self.out_features = conv.weight.shape

    def matmul(self, x: Tensor) -> Tensor:
        y: Tensor = torch.addmm(self.inner.bias, x.reshape(-1, x.shape[-1]), self.inner.weight)
        return y.view(*x.shape[:-1], -1)

    def matmul_t(self, g: Tensor, into: Tensor | None = None) -> Tensor:
        weight: Tensor = self.inner.weight.t()
        return g @ weight if into is None else into.addmm_(g, weight)

    def dense(self) -> Tensor:
        weight: Tensor = self.inner.weight.t()
        return weight

    def add_(self, delta: Tensor) -> None:
        with torch.no_grad():
            self.inner.weight += delta.t().to(self.inner.weight.dtype)

    def module(self) -> nn.Module:
        inner: nn.Module = self.inner
        return inner


def base_linear(module: nn.Module) -> BaseLinear:
    """The BaseLinear that holds `module`'s weight."""
    return TransposedLinear(module) if isinstance(module, Conv1D) else DenseLinear(module)  # type: ignore[arg-type]
