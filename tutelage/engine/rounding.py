"""fp32 values in bf16, so that small changes show: each value rounds up or down by a threshold of its own, which never changes.

Rounding to the nearest loses what training changes: a step of 2e-5 moves a weight of 0.1 by a twentieth of the distance to the
next bf16 value, so most weights stay where they were, in the model that is computed with as in the one that is saved. Stochastic
rounding has the right mean (Zamirai et al. 2020, arXiv 2010.06192 §3); with thresholds that are fixed it also is a function of
the value alone: what bf16 holds exactly stays, and a run that continues computes with the same bits.
"""

import functools
import zlib

import torch
from torch import Tensor

BLOCK = 1 << 18  # thresholds; longer tensors use them again. Two blocks of 4 bytes stay in the cache


@functools.cache
def _thresholds(device: torch.device) -> Tensor:
    """[2 BLOCK] int32 in [1, 2^16), the second half like the first: so that a block can begin anywhere."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randint(1, 1 << 16, (BLOCK,), generator=generator, dtype=torch.int32)
    return torch.cat((block, block)).to(device)


class Rounding:
    """`values`, contiguous fp32, in bf16 written to `into`, contiguous too, by each call. `name` says which thresholds are theirs.

    A bf16 value is the upper half of an fp32 one, the one nearer to 0 of its two neighbours; with a threshold added to the fp32
    value's bits it is the other one where the lower half and the threshold make 2^16. In whole numbers, as torch's conversion
    would round again, and bits below those of 0 are no number. The views are made once, as they would take as long as the work.
    """

    def __init__(self, values: Tensor, name: str, into: Tensor) -> None:
        self.place = values.data_ptr(), into.data_ptr()
        bits = values.detach().view(-1).view(torch.int32)
        stored = into.detach().view(-1).view(torch.int16)
        begin, thresholds = zlib.crc32(name.encode()) % BLOCK, _thresholds(values.device)
        self._parts = [
            (part, thresholds[begin : begin + len(part)], stored[start : start + len(part)])
            for start, part in ((start, bits[start : start + BLOCK]) for start in range(0, bits.numel(), BLOCK))
        ]

    def __call__(self) -> None:
        for part, thresholds, stored in self._parts:
            stored.copy_(torch.add(part, thresholds).bitwise_right_shift_(16))


def rounded(values: Tensor, name: str) -> Tensor:
    """`values`, contiguous fp32, in bf16 (see `Rounding`)."""
    found = torch.empty_like(values, dtype=torch.bfloat16)
    if not values.is_meta:
        Rounding(values, name, found)()
    return found
