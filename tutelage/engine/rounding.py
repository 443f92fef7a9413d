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
    """[2 BLOCK] int32 in [0, 65536), the second half like the first: so that a block can begin anywhere."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randint(0, 1 << 16, (BLOCK,), generator=generator, dtype=torch.int32)
    return torch.cat((block, block)).to(device)


def rounded(values: Tensor, name: str, into: Tensor | None = None) -> Tensor:
    """`values`, contiguous fp32, in bf16, written to `into` where it is given. `name` says which thresholds are theirs."""
    found = torch.empty_like(values, dtype=torch.bfloat16) if into is None else into
    if values.is_meta:
        return found
    bits, stored = values.detach().view(-1).view(torch.int32), found.detach().view(-1)
    thresholds, sums = (
        _thresholds(values.device),
        torch.empty(min(BLOCK, bits.numel()), dtype=torch.int32, device=values.device),
    )
    begin = zlib.crc32(name.encode()) % BLOCK
    for start in range(0, bits.numel(), BLOCK):
        part = bits[start : start + BLOCK]
        count = len(part)
        # a bf16 value is the upper half of an fp32 one: the lower half carries into it, or is cut off. To convert what is then
        # exact takes two thirds of the time of copying every other half
        torch.add(part, thresholds[begin : begin + count], out=sums[:count]).bitwise_and_(-1 << 16)
        stored[start : start + count].copy_(sums[:count].view(torch.float32))
    return found
