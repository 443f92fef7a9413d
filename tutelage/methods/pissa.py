"""PiSSA's start: the adapter holds a weight's largest singular values (Meng et al. 2024, arXiv 2404.02948 §3)."""

import torch
from torch import Tensor

from tutelage.engine.linear import BaseLinear
from tutelage.engine.residual_linear import ResidualLinear
from tutelage.errors import RecipeError

OVERSAMPLED = 8  # directions beyond the rank that the iteration looks at


def iterations_of(init: str) -> int | None:
    """4 for `pissa_niter_4`; None for `pissa`, which means exactly."""
    return int(init.rpartition("_")[2]) if init.startswith("pissa_niter_") else None


def less_principal(base: BaseLinear, rank: int, scale: float, iterations: int | None, seed: int) -> ResidualLinear:
    """`base` less the rank-`rank` product s BA of its largest singular values, √ of each in A and in B."""
    weight = base.dense().detach()
    if rank > min(weight.shape):
        raise RecipeError(
            f"PiSSA of rank {rank} cannot start from a weight of {weight.shape[0]} x {weight.shape[1]}", where="method.rank",
            why=f"it has {min(weight.shape)} singular values", fix=f"rank: {min(weight.shape)}",
        )  # fmt: skip
    weight = weight if weight.dtype == torch.float64 else weight.float()
    left, values, right = _exact(weight) if iterations is None else _iterated(weight, rank, iterations, seed)
    roots = (values[:rank] / scale).sqrt()
    a, b = roots[:, None] * right[:rank], left[:, :rank] * roots
    return ResidualLinear(base, a.float().contiguous(), b.float().contiguous(), scale)


def _exact(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    return left, values, right


def _iterated(weight: Tensor, rank: int, iterations: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Randomised subspace iteration (Halko, Martinsson & Tropp 2011, arXiv 0909.4061, algorithms 4.4 and 5.1)."""
    generator = torch.Generator().manual_seed(seed)
    width = min(rank + OVERSAMPLED, *weight.shape)
    drawn = torch.randn(weight.shape[1], width, generator=generator).to(weight)
    basis = torch.linalg.qr(weight @ drawn).Q
    for _ in range(iterations):
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.t() @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.t() @ weight, full_matrices=False)
    return basis @ left, values, right
