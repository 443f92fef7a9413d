"""Frozen linear weights as 4-bit integers: 16 equal steps from the smallest value of a block to its largest.

That is the grid of GGUF's Q4_1 (blocks of 32 with a scale and a smallest value each), so a model that was stored so comes back
without a loss; NF4 would round it to another grid. Scale and smallest value are fp16. With double quantisation (as QLoRA does
with NF4's scales: Dettmers et al. 2023, arXiv 2305.14314 §3) both are 8-bit, 256 of them sharing two fp32, in equal steps, and
the codes are those of the scales that come of it.
"""

import torch
from torch import Tensor

from tutelage.engine.four_bits import DEQUANTISED_AT_ONCE, SCALES_PER_OUTER, FourBitLinear, Quantisation, Scratch

STEPS = 15
LEVELS = 255  # of a scale
QUANTISED_AT_ONCE = 1 << 16  # values


class Int4Linear(FourBitLinear):
    """A linear layer whose weight is blocks of 4-bit integers, each with its scale and its smallest value."""

    scales: Tensor
    lows: Tensor
    scale_steps: Tensor  # with double quantisation: [groups, 2], the lowest of 256 and the step
    low_steps: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, how: Quantisation, scratch: Scratch) -> None:
        """From an [out, in] weight."""
        super().__init__(weight, bias, how, scratch)
        flat = weight.reshape(-1)
        size = QUANTISED_AT_ONCE // how.block_size * how.block_size
        ranges = [_ranges(_blocks(part, how.block_size), STEPS) for part in torch.split(flat, size)]
        for name, each in zip(("scale", "low"), zip(*ranges)):
            self._keep(name, torch.cat(each))
        codes, at = [], 0
        scales, lows = self._each("scale"), self._each("low")
        for part in torch.split(flat, size):
            blocks = _blocks(part, how.block_size)
            span = slice(at, at := at + len(blocks))
            codes.append(_codes(blocks, scales[span, None], lows[span, None], STEPS)[: part.numel()])
        whole = torch.cat(codes)
        upper, lower = whole[: self._half].bitwise_left_shift(4), whole[self._half :]
        upper[: len(lower)] |= lower
        self.register_buffer("codes", upper)

    @property
    def _half(self) -> int:
        """How many values lie in the upper halves of the bytes; whole blocks. Those behind them lie in the lower halves: so
        each half is read in one piece, in 0.6 of the time that alternating ones take."""
        block = self.how.block_size
        return -(-self.out_features * self.in_features // (2 * block)) * block

    def _keep(self, name: str, values: Tensor) -> None:
        if not self.how.double:
            self.register_buffer(f"{name}s", values.half().view(torch.uint8))
            return
        groups = _blocks(values, SCALES_PER_OUTER)
        step, lowest = (each[:, None] for each in _ranges(groups, LEVELS))
        self.register_buffer(f"{name}s", _codes(groups, step, lowest, LEVELS)[: values.numel()])
        self.register_buffer(f"{name}_steps", torch.cat((lowest, step), 1).view(torch.uint8))

    def _each(self, name: str) -> Tensor:
        """fp32, one per block: the scales, or the smallest values."""
        kept: Tensor = getattr(self, f"{name}s")
        if not self.how.double:
            return kept.view(torch.float16).float()
        lowest, step = getattr(self, f"{name}_steps").view(torch.float32).view(-1, 2, 1).unbind(1)
        return _blocks(kept, SCALES_PER_OUTER).mul(step).add_(lowest).view(-1)[: len(kept)]

    def _weight(self, dtype: torch.dtype) -> Tensor:
        if dtype == torch.float64:
            return self._weight(torch.float32).double()
        values, block, half = self.out_features * self.in_features, self.how.block_size, self._half
        scales, lows = self._each("scale")[:, None], self._each("low")[:, None]
        flat = self.scratch.get(values, dtype, self.codes.device)
        for first, count in ((0, min(half, values)), (half, values - half)):
            for start in range(0, count, DEQUANTISED_AT_ONCE):
                stop = min(start + DEQUANTISED_AT_ONCE, count)
                codes = self.codes[start:stop]
                each = (codes >> 4 if first == 0 else codes & 15).float()
                span = slice((first + start) // block, -(-(first + stop) // block))
                blocks = _blocks(each, block).mul_(scales[span]).add_(lows[span])
                flat[first + start : first + stop] = blocks.view(-1)[: stop - start]
        return flat.view(self.out_features, -1)


def _blocks(values: Tensor, block: int) -> Tensor:
    """[n / block, block] in fp32; a last one that is not full goes on with its last value, which changes no range."""
    missing = -values.numel() % block
    whole = torch.cat((values, values[-1:].expand(missing))) if missing else values
    return whole.float().view(-1, block)


def _ranges(blocks: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Of each, the size of so many equal steps from its smallest value to its largest, and the smallest value."""
    low = blocks.amin(1)
    return (blocks.amax(1) - low) / steps, low


def _codes(blocks: Tensor, step: Tensor, low: Tensor, most: int) -> Tensor:
    """uint8, in one row: how many steps above the lowest each value is, to the nearest; at most so many."""
    known = step.clamp_min(torch.finfo(torch.float32).tiny)
    return blocks.sub(low).div_(known).round_().clamp_(0, most).to(torch.uint8).view(-1)


def plain_values(layer: Int4Linear) -> Tensor:
    """[out, in] in fp32, value by value as the format is defined: the reference of every dequantisation here."""
    values, block = layer.out_features * layer.in_features, layer.how.block_size
    codes = torch.cat((layer.codes >> 4, layer.codes & 15))[:values]
    at = torch.arange(values) // block
    return (codes.float() * layer._each("scale")[at] + layer._each("low")[at]).view(layer.out_features, -1)
