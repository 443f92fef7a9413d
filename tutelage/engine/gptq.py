"""Weights rounded to NF4 by what they do to real inputs (GPTQ: Frantar et al. 2022, arXiv 2210.17323 §3, with NF4's values).

Columns are rounded one after the other; what rounding one of them does to the layer's output is made up for by the columns
that follow, as the inputs' second moments say. Blocks of columns share their scale, which is chosen when their turn comes.
"""

import torch
from torch import Tensor

from tutelage.engine.nf4 import nf4_codes, nf4_table

DAMPING = 0.01  # of the mean of the moments' diagonal, added to it: inputs that never occur would make it singular
# Scales that are tried, in parts of a block's largest value. NF4's steps below zero differ from those above it, so a block may be
# turned round: in blocks of 16 that and smaller scales take a third off the squared error; 7 of them, not 10, a fourth.
CANDIDATES = tuple(sign * (0.75 + step / 30) for sign in (1.0, -1.0) for step in range(10))


def rounded(weight: Tensor, moments: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Codes [out, in] and bf16 scales [out, in / block] of `weight` [out, in] for inputs x with `moments` = sum of x xᵀ [in, in].

    `in` must be whole blocks. Everything is fp32; neither argument is changed.
    """
    width = weight.shape[1]
    if width % block:
        raise ValueError(f"rows of {width} weights are no whole number of blocks of {block}")
    table = nf4_table(weight.device)
    # [in, out]: what is still to be rounded, with what was made up for
    left = weight.t().float().clone(memory_format=torch.contiguous_format)
    factor = _factor(moments.float())
    importance = factor.diagonal().square().reciprocal()
    codes = torch.empty(left.shape, dtype=torch.uint8)
    scales = torch.empty(width // block, left.shape[1], dtype=torch.bfloat16)
    for start in range(0, width, block):
        stop = start + block
        scale = _scale(left[start:stop], importance[start:stop], table)
        scales[start // block] = scale.bfloat16()
        errors = torch.empty(block, left.shape[1])
        for row in range(start, stop):
            codes[row] = nf4_codes(left[row] / scale)
            error = (left[row] - table[codes[row].int()] * scale) / factor[row, row]
            left[row + 1 : stop].addr_(factor[row, row + 1 : stop], error, alpha=-1)
            errors[row - start] = error
        left[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    return codes.t().contiguous(), scales.t().contiguous()


def _factor(moments: Tensor) -> Tensor:
    """[in, in] upper triangular U with UᵀU the inverse of the damped moments: its row i is how column i's error spreads."""
    damped = moments + torch.eye(len(moments)) * (DAMPING * moments.diagonal().mean()).clamp_min(1e-30)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _scale(values: Tensor, importance: Tensor, table: Tensor) -> Tensor:
    """[out] scales of [block, out] values with the least weighted squared error, as bf16 can hold them."""
    largest = values.abs().amax(0).clamp_min(1e-30)
    tried = (largest * torch.tensor(CANDIDATES)[:, None]).bfloat16().float()  # [candidates, out]
    each = tried[:, None]
    back = table[nf4_codes(values / each).int()].mul_(each)
    errors = back.sub_(values).square_().mul_(importance[:, None]).sum(1)
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]


def missing(difference: Tensor, moments: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank]: of all products BA the one whose outputs differ least from those of `difference` [out, in].

    QERA's closed form (Zhang et al. 2024, arXiv 2410.06040 §3.2, with all of the moments): B spans the largest directions of what
    `difference` puts out, and BA is `difference` seen in them. Rounding errs where inputs are small, so A sees little: each of its
    rows is scaled until what it puts out is, in the mean square, what LoRA's usual start puts out (values uniform within
    1/√in, so tr(moments) / 3 in), and training goes on at the usual pace. With half of the size in each, as PiSSA has it, QLoRA
    kept 71 % of LoRA's gain, so 75 % (docs/qlora.md).
    """
    moments = moments.float()
    put_out = difference @ moments @ difference.t()
    directions = torch.linalg.eigh(put_out).eigenvectors[:, -rank:]
    seen = directions.t() @ difference
    usual = moments.diagonal().mean() / 3
    factors = (usual / ((seen @ moments) * seen).sum(1).clamp_min(1e-30)).sqrt()
    return seen * factors[:, None], (directions / factors).contiguous()
