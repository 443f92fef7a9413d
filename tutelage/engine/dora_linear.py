"""DoRA around a frozen linear layer (Liu et al. 2024, arXiv 2402.09353 §4.1, eq. 5): magnitude and direction apart.

y = c ∘ (x Wᵀ + s · drop(x) Aᵀ Bᵀ) + b with c = m / ‖W + s BA‖, where the norm is of each output's vector (as PEFT has it) and
a constant in the backward pass (§4.3). It is had from ‖W‖² + 2 s B·(W Aᵀ) + s² B (A Aᵀ) Bᵀ, so that W + s BA is never made.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tutelage.engine.linear import BaseLinear
from tutelage.engine.lora_linear import LoraLinear


class _DoraProduct(torch.autograd.Function):
    """The whole layer as one function. Beside what LoRA saves, the unscaled outputs: m's gradient needs them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, m: Tensor, norms: Tensor, bias: Tensor | None, base: BaseLinear,
        scale: float,
    ) -> Tensor:  # fmt: skip
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.to(x.dtype).t()
        unscaled = base.product(rows)
        unscaled.addmm_(low, b.to(x.dtype).t(), alpha=scale)
        ctx.save_for_backward(rows, low, unscaled, a, b, m, norms)
        ctx.base, ctx.scale, ctx.shape = base, scale, x.shape
        factors = (m / norms).to(x.dtype)
        y = unscaled * factors if bias is None else torch.addcmul(bias, unscaled, factors)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, unscaled, a, b, m, norms = ctx.saved_tensors
        g = gradients[0].reshape(-1, gradients[0].shape[-1])
        dm = (g * unscaled).sum(0, dtype=norms.dtype).div_(norms).to(m.dtype)
        g = g * (m / norms).to(g.dtype)
        dlow = (g @ b.to(g.dtype)).mul_(ctx.scale)
        da = (dlow.t() @ rows).to(a.dtype)
        db = (g.t() @ low).to(b.dtype).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = ctx.base.matmul_t(g).addmm_(dlow, a.to(g.dtype)).view(ctx.shape)
        return dx, da, db, dm, None, None, None, None


class DoraLinear(LoraLinear):
    """A LoraLinear whose outputs are scaled to trained magnitudes m [out], which start at the norms of the start."""

    def __init__(self, base: BaseLinear, rank: int, scale: float, dropout: float = 0.0, fast: bool = True) -> None:
        super().__init__(base, rank, scale, dropout, fast)
        weight = base.dense()
        exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.squares: Tensor
        self.bias: Tensor | None
        self.register_buffer("squares", torch.linalg.vector_norm(weight, dim=1, dtype=exact).square_())
        bias = base.bias()
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.stored = weight.dtype
        self.m = nn.Parameter(torch.empty(base.out_features, dtype=torch.float32, device=weight.device))
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Set the magnitudes so that the layer computes what it would without them."""
        self.m.copy_(self.norms())

    @torch.no_grad()
    def norms(self) -> Tensor:
        """‖W + s BA‖ [out] in at least fp32, a constant."""
        exact = self.squares.dtype
        crossed = self.base.product(self.a.to(self.stored)).to(exact)  # A Wᵀ [r, out]
        a, b = self.a.to(exact), self.b.to(exact) * self.scale
        squares = self.squares + 2 * (b * crossed.t()).sum(1) + ((b @ (a @ a.t())) * b).sum(1)
        return squares.clamp_min_(torch.finfo(exact).tiny).sqrt_()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if self.fast and not (self.training and self.dropout > 0):
            return _DoraProduct.apply(  # type: ignore[no-untyped-call,no-any-return]
                x, self.a, self.b, self.m, self.norms(), self.bias, self.base, self.scale
            )
        return self.reference(x)

    def reference(self, x: Tensor) -> Tensor:
        """The plain composition with the whole W + s BA, differentiated by torch; also the path with dropout on x."""
        dropped = nn.functional.dropout(x, self.dropout, self.training)
        added = (dropped @ self.a.to(x.dtype).t() @ self.b.to(x.dtype).t()) * self.scale
        factors = self.m / torch.linalg.vector_norm(self._tuned(), dim=1).detach()
        y: Tensor = (self.base.product(x) + added) * factors.to(x.dtype)
        return y if self.bias is None else y + self.bias

    def delta(self) -> Tensor:
        """The [out, in] matrix that merging adds to the weight."""
        tuned = self._tuned()
        delta: Tensor = tuned * (self.m / torch.linalg.vector_norm(tuned, dim=1))[:, None] - self.base.dense()
        return delta

    def _tuned(self) -> Tensor:
        """W + s BA in at least fp32."""
        tuned: Tensor = self.base.dense().to(self.squares.dtype) + super().delta().detach()
        return tuned
