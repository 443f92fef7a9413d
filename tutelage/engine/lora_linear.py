"""LoRA around a frozen linear layer (Hu et al. 2021, arXiv 2106.09685 §4.1): y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ."""

from typing import Any

import torch
from torch import Tensor, nn

from tutelage.engine.linear import BaseLinear


class _LoraProduct(torch.autograd.Function):
    """The whole layer as one function: no gradient for the frozen weight, only x, its rank-r image and A, B saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, base: BaseLinear, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low_a, low_b = a.to(x.dtype), b.to(x.dtype)
        low = rows @ low_a.t()
        y = base.matmul(rows)
        y.addmm_(low, low_b.t(), alpha=scale)
        ctx.save_for_backward(rows, low, a, b)
        ctx.base, ctx.scale, ctx.shape = base, scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, a, b = ctx.saved_tensors
        g = gradients[0].reshape(-1, gradients[0].shape[-1])
        dlow = (g @ b.to(g.dtype)).mul_(ctx.scale)
        da = (dlow.t() @ rows).to(a.dtype)
        db = (g.t() @ low).to(b.dtype).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = ctx.base.matmul_t(g).addmm_(dlow, a.to(g.dtype)).view(ctx.shape)
        return dx, da, db, None, None


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable rank-r addition; B starts at zero, so the layer starts unchanged."""

    def __init__(self, base: BaseLinear, rank: int, scale: float, dropout: float = 0.0, fast: bool = True) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.dropout = dropout
        self.fast = fast
        device = base.like.device
        self.a = nn.Parameter(torch.empty(rank, base.in_features, dtype=torch.float32, device=device))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if self.fast and not (self.training and self.dropout > 0):
            return _LoraProduct.apply(x, self.a, self.b, self.base, self.scale)  # type: ignore[no-untyped-call,no-any-return]
        return self.reference(x)

    @property
    def weight(self) -> Tensor:
        """A tensor like the frozen weight, for models that look at a layer's dtype (T5)."""
        return self.base.like

    def reference(self, x: Tensor) -> Tensor:
        """The plain composition, differentiated by torch; also the path with dropout on x."""
        dropped = nn.functional.dropout(x, self.dropout, self.training)
        return self.base.matmul(x) + (dropped @ self.a.to(x.dtype).t() @ self.b.to(x.dtype).t()) * self.scale

    def delta(self) -> Tensor:
        """The [out, in] matrix that merging adds to the weight."""
        return (self.b @ self.a) * self.scale
