"""A frozen linear layer less a frozen rank-r part of its weight, which an adapter then starts from (PiSSA)."""

import torch
from torch import Tensor, nn

from tutelage.engine.linear import BaseLinear


class ResidualLinear(BaseLinear):
    """W - s BA over any storage of W, which stays as it is: nothing is rounded twice, and what an adapter that starts from
    A and B adds to W is the rank-2r product of [A; A₀] and [B, -B₀]."""

    def __init__(self, base: BaseLinear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.in_features, self.out_features = base.in_features, base.out_features
        self.fan_in_fan_out = base.fan_in_fan_out
        self.a: Tensor
        self.b: Tensor
        self.register_buffer("a", a)
        self.register_buffer("b", b)

    def matmul(self, x: Tensor) -> Tensor:
        return self._less(self.base.matmul(x), x)

    def product(self, x: Tensor) -> Tensor:
        return self._less(self.base.product(x), x)

    def _less(self, y: Tensor, x: Tensor) -> Tensor:
        return y - (x @ self.a.to(x.dtype).t() @ self.b.to(x.dtype).t()) * self.scale

    def matmul_t(self, g: Tensor, into: Tensor | None = None) -> Tensor:
        image = g @ self.b.to(g.dtype)
        return self.base.matmul_t(g, into).addmm_(image, self.a.to(g.dtype), alpha=-self.scale)

    def dense(self) -> Tensor:
        weight = self.base.dense()
        return weight - ((self.b @ self.a) * self.scale).to(weight.dtype)

    def add_(self, delta: Tensor) -> None:
        """Add to the weight, and put the part back that it lacks here: afterwards it lacks none."""
        self.base.add_(delta - (self.b @ self.a) * self.scale)
        with torch.no_grad():
            self.b.zero_()

    def module(self) -> nn.Module:
        return self.base.module()

    def bias(self) -> Tensor | None:
        return self.base.bias()
