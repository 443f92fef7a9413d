"""Linear layers that read the same input, as explicit products forward and backward, for the hand-written decoder layer.

A `Products` is the same mathematics as its modules' own forwards; it exists so that one function can own a whole layer: the
input's gradient is summed in the matrix products themselves, and the adapters of queries, keys and values (or gate and up)
read their input once, as one product of rank 3 r: at rank 16 such a product reaches 250 GFLOP/s on a processor that does 850.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.engine.linear import BaseLinear
from tutelage.engine.lora_linear import LoraLinear


@dataclass(frozen=True)
class Plain:
    """An nn.Linear, frozen or not: y = x Wᵀ + b."""

    linear: nn.Linear

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that may train."""
        return list(self.linear.parameters(recurse=False))

    def forward(self, x: Tensor) -> Tensor:
        """[N, in] → [N, out]."""
        return nn.functional.linear(x, self.linear.weight, self.linear.bias)

    def input_gradient(self, g: Tensor, into: Tensor | None) -> Tensor:
        """g W, added to `into` where given."""
        return g @ self.linear.weight if into is None else into.addmm_(g, self.linear.weight)

    def gradients(self, g: Tensor, x: Tensor) -> list[Tensor | None]:
        """Of `parameters`; None for one that is frozen."""
        weight = g.t() @ x if self.linear.weight.requires_grad else None
        if self.linear.bias is None:
            return [weight]
        return [weight, g.sum(0) if self.linear.bias.requires_grad else None]


@dataclass(frozen=True)
class Frozen:
    """A weight that never trains and has no adapter, however it is stored."""

    base: BaseLinear

    @property
    def parameters(self) -> list[nn.Parameter]:
        return []

    def forward(self, x: Tensor) -> Tensor:
        return self.base.matmul(x)

    def input_gradient(self, g: Tensor, into: Tensor | None) -> Tensor:
        return self.base.matmul_t(g, into)

    def gradients(self, g: Tensor, x: Tensor) -> list[Tensor | None]:
        return []


@dataclass(frozen=True)
class LowRank:
    """The parts of a LoraLinear: y = x Wᵀ + b + scale · x Aᵀ Bᵀ."""

    a: nn.Parameter
    b: nn.Parameter
    base: BaseLinear
    scale: float


class Products:
    """Linear modules that read the same x [N, in]; `products` makes them."""

    def __init__(self, parts: Sequence[LowRank | Plain | Frozen]) -> None:
        self.parts = parts
        self.low_rank = [part for part in self.parts if isinstance(part, LowRank)]
        self.ranks = [part.a.shape[0] for part in self.low_rank]

    def only(self, *numbers: int) -> "Products":
        """Those of these numbers, for an input of their own."""
        return Products([self.parts[number] for number in numbers])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that may train, in the order of `backward`'s gradients."""
        return [p for part in self.parts for p in ([part.a, part.b] if isinstance(part, LowRank) else part.parameters)]

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """One y [N, out] per module, and the adapters' rank-r images side by side, which the backward wants."""
        images = x @ self._all_a(x.dtype).t() if self.low_rank else None
        ranks = iter(() if images is None else torch.split(images, self.ranks, 1))
        ys = []
        for part in self.parts:
            if isinstance(part, LowRank):
                y = part.base.matmul(x)
                ys.append(y.addmm_(next(ranks), part.b.to(x.dtype).t(), alpha=part.scale))
            else:
                ys.append(part.forward(x))
        return ys, images

    def backward(self, gs: Sequence[Tensor], x: Tensor, images: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        """The gradient in x of the gradients of all ys, and one gradient per parameter."""
        dx: Tensor | None = None
        dimages: list[Tensor] = []
        for part, g in zip(self.parts, gs):
            if isinstance(part, LowRank):
                dx = part.base.matmul_t(g, dx)
                dimages.append((g @ part.b.to(g.dtype)).mul_(part.scale))
            else:
                dx = part.input_gradient(g, dx)
        assert dx is not None
        if images is None:
            return dx, [
                d for part, g in zip(self.parts, gs) if not isinstance(part, LowRank) for d in part.gradients(g, x)
            ]
        dimage = torch.cat(dimages, 1) if len(dimages) > 1 else dimages[0]
        dx.addmm_(dimage, self._all_a(x.dtype))
        pairs = zip(torch.split(dimage.t() @ x, self.ranks), torch.split(images, self.ranks, 1))
        found: list[Tensor | None] = []
        for part, g in zip(self.parts, gs):
            if isinstance(part, LowRank):
                da, image = next(pairs)
                found += [da.to(part.a.dtype), (g.t() @ image).to(part.b.dtype).mul_(part.scale)]
            else:
                found += part.gradients(g, x)
        return dx, found

    def _all_a(self, dtype: torch.dtype) -> Tensor:
        return torch.cat([part.a for part in self.low_rank]).to(dtype)


def products(*modules: nn.Module) -> Products:
    """What linear modules that read the same input compute."""
    return Products([_part(module) for module in modules])


def _part(module: Any) -> LowRank | Plain | Frozen:
    if isinstance(module, LoraLinear):
        return LowRank(module.a, module.b, module.base, module.scale)
    return Frozen(module) if isinstance(module, BaseLinear) else Plain(module)


def expressible(module: nn.Module) -> bool:
    """Whether `Products` computes what the module does (not with dropout, say)."""
    if isinstance(module, LoraLinear):
        return known(module) and module.fast and not (module.training and module.dropout > 0)
    return known(module)


def known(module: nn.Module) -> bool:
    """Whether the module is of a kind that `Products` computes at all (DoRA's is not)."""
    return type(module) in (nn.Linear, LoraLinear) or isinstance(module, BaseLinear)


@dataclass(frozen=True)
class Norm:
    """RMSNorm over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    weight: nn.Parameter
    eps: float

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The result, and 1 / rms [..., 1] in at least fp32."""
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        rate = norm.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
        return self.again(x, rate), rate

    def again(self, x: Tensor, rate: Tensor) -> Tensor:
        """The result, from 1 / rms."""
        return torch.mul(x, rate, out=torch.empty_like(x)).mul_(self.weight)

    def backward(self, g: Tensor, x: Tensor, rate: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradients in x and in the weight (None if that is frozen)."""
        normed = torch.mul(x, rate, out=torch.empty_like(x))
        dweight = None
        if self.weight.requires_grad:
            dweight = (g * normed).flatten(0, -2).sum(0, dtype=rate.dtype).to(self.weight.dtype)
        scaled = g * self.weight
        mean = (scaled * normed).sum(-1, keepdim=True, dtype=rate.dtype).div_(-x.shape[-1])
        scaled.addcmul_(normed, mean.to(x.dtype))
        return torch.mul(scaled, rate, out=scaled), dweight


class _Normed(torch.autograd.Function):
    """A norm by itself, as for the last hidden states."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, norm: Norm) -> Tensor:
        y, rate = norm.forward(x)
        ctx.save_for_backward(x, rate)
        ctx.norm = norm
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.norm.backward(gradients[0], *ctx.saved_tensors), None)


def normed(x: Tensor, norm: Norm) -> Tensor:
    """`norm` of [N, H], with its gradient."""
    y: Tensor = _Normed.apply(x, norm.weight, norm)  # type: ignore[no-untyped-call]
    return y
