"""GPTQ gives what the plain algorithm of the paper gives, and changes what comes out of a layer less than the nearest values do."""

import pytest
import torch
from torch import Tensor

from tutelage.engine.four_bits import Quantisation, Scratch
from tutelage.engine.gptq import CANDIDATES, DAMPING, missing, rounded
from tutelage.engine.nf4 import Nf4Linear, coded_blocks, nf4_table, packed_codes, plain_values

BLOCK = 16
TABLE = nf4_table(torch.device("cpu"))


def inputs(width: int, rows: int = 400) -> Tensor:
    """Inputs whose parts depend on one another, as those of a model do."""
    draw = torch.Generator().manual_seed(1)
    mixed = torch.randn(width // 4, width, generator=draw)
    return torch.randn(rows, width // 4, generator=draw) @ mixed + 0.3 * torch.randn(rows, width, generator=draw)


def weight(out: int, width: int) -> Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(0)) * 0.02


def values(codes: Tensor, scales: Tensor) -> Tensor:
    return TABLE[codes.long()] * scales.float().repeat_interleave(BLOCK, 1)


def plain(w: Tensor, moments: Tensor) -> Tensor:
    """§3.1 without blocks or factors: after each column the inverse moments of those that are left are computed anew, in fp64."""
    left, found = w.double(), torch.empty_like(w)
    damped = moments.double() + torch.eye(len(moments)).double() * DAMPING * moments.double().diagonal().mean()
    full = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True).diagonal() ** -2
    for column in range(w.shape[1]):
        inverse = torch.linalg.inv(damped[column:, column:])
        if column % BLOCK == 0:
            part, best = left[:, column : column + BLOCK], torch.full((len(w),), torch.inf, dtype=torch.float64)
            scale = torch.empty(len(w), dtype=torch.float64)
            for share in CANDIDATES:
                tried = (part.abs().amax(1) * share).bfloat16().double()
                near = (part / tried[:, None])[..., None].sub(TABLE.double()).abs().argmin(-1)
                error = ((TABLE.double()[near] * tried[:, None] - part) ** 2 * full[column : column + BLOCK]).sum(1)
                scale, best = torch.where(error < best, tried, scale), torch.minimum(error, best)
        q = TABLE.double()[(left[:, column] / scale)[:, None].sub(TABLE.double()).abs().argmin(-1)] * scale
        found[:, column] = q.float()
        left[:, column:] -= ((left[:, column] - q) / inverse[0, 0])[:, None] * inverse[0]
    return found


def test_it_is_the_papers_algorithm() -> None:
    w, x = weight(24, 64), inputs(64)
    expected = plain(w, x.T @ x)
    assert (values(*rounded(w, x.T @ x, BLOCK)) == expected).float().mean() > 0.995, "but where two values are as near"


@pytest.mark.parametrize("block", [16, 32, 64])
def test_the_output_changes_less_than_by_rounding_to_the_nearest(block: int) -> None:
    w, x = weight(48, 256), inputs(256)
    fresh = inputs(256, 900)[400:]  # not those that it was calibrated on
    codes, scales = rounded(w, x.T @ x, block)
    ours = TABLE[codes.long()] * scales.float().repeat_interleave(block, 1)
    nearest = plain_values(Nf4Linear(w, None, Quantisation(block, double=False), Scratch()))
    errors = [((q - w) @ fresh.T).norm() for q in (ours, nearest)]
    assert errors[0] < 0.6 * errors[1]


def test_inputs_that_never_occur_and_weights_of_zero_are_no_trouble() -> None:
    w, x = weight(8, 32), inputs(32)
    x[:, :5] = 0.0
    w[3] = 0.0
    found = values(*rounded(w, x.T @ x, BLOCK))
    assert bool(found.isfinite().all())
    assert found[3].abs().max() < 1e-20
    assert bool(values(*rounded(w, torch.zeros(32, 32), BLOCK)).isfinite().all())


def test_a_layer_takes_what_was_rounded() -> None:
    w, x = weight(24, 64), inputs(64)
    codes, scales = rounded(w, x.T @ x, BLOCK)
    coded = packed_codes(codes.view(-1)), scales.float().view(-1)
    layer = Nf4Linear(w, None, Quantisation(BLOCK, double=False), Scratch(), coded)
    assert torch.equal(layer.dense(), values(codes, scales))
    twice = Nf4Linear(w, None, Quantisation(BLOCK), Scratch(), coded).dense()
    assert (twice - layer.dense()).norm() < 0.02 * layer.dense().norm(), "scales of either sign, in 8 bits"
    with pytest.raises(ValueError, match="no whole number of blocks"):
        rounded(w[:, :60], torch.eye(60), BLOCK)
    assert len(coded_blocks(w.view(-1)[:33], BLOCK)[0]) == 17


def test_what_is_missing_is_the_best_product_of_its_rank() -> None:
    difference, x = weight(40, 64), inputs(64)
    a, b = missing(difference, x.T @ x, 6)
    assert (a.shape, b.shape) == ((6, 64), (40, 6))
    left, values, right = torch.linalg.svd((difference @ x.T).double(), full_matrices=False)
    best = (left[:, :6] * values[:6]) @ right[:6]  # Eckart, Young: of all outputs of rank 6
    torch.testing.assert_close((b @ a @ x.T).double(), best, rtol=1e-3, atol=1e-4)
    assert ((difference - b @ a) @ x.T).norm() < 0.9 * (difference @ x.T).norm()


def test_what_stands_in_puts_out_as_much_inside_as_lora_does_at_its_start() -> None:
    difference, x = weight(40, 64), inputs(64, 4000)
    a, _ = missing(difference, x.T @ x, 6)
    usual = torch.empty(2000, 64).uniform_(-1 / 8, 1 / 8, generator=torch.Generator().manual_seed(2))
    inside = (x @ a.T).square().mean(0)
    torch.testing.assert_close(inside, (x @ usual.T).square().mean().expand(6), rtol=0.05, atol=0)
