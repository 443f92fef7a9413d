"""Frozen linear weights in 4-bit NormalFloat with double quantisation (QLoRA: Dettmers et al. 2023, arXiv 2305.14314 §3).

Blocks of 64 values (or 16 to 1,024) share a scale; a value is one of 16 quantiles of the normal distribution, in 4 bits. With
double quantisation the scales themselves are 8-bit, 256 of them sharing an fp32 one. bitsandbytes' functions quantise and
dequantise; its Linear4bit is not used: on AVX512-BF16 processors it repacks its weight at the first evaluation, and then loses the
input's gradient.
"""

import functools
import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tutelage.engine.four_bits import DEQUANTISED_AT_ONCE, SCALES_PER_OUTER, FourBitLinear, Quantisation, Scratch
from tutelage.errors import need

QUANTISED_AT_ONCE = 1 << 15  # values: a chunk's temporaries stay in the cache, and out of the loading peak
SMALLEST = 32  # values in a block of bitsandbytes' kernels; ours of 16 are read by them as if all scales were 1


@functools.cache
def functional() -> Any:
    """bitsandbytes' functions, or a sentence that says how to install it."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that a kernel is missing which is not used here
    try:
        return need("bitsandbytes.functional", extra="qlora")
    finally:
        logger.setLevel(level)


@functools.cache
def _scale_codes(device: torch.device) -> Tensor:
    """The 256 values of an 8-bit scale."""
    codes: Tensor = functional().create_dynamic_map().to(device)
    return codes


Coded = tuple[Tensor, Tensor]  # codes [values / 2], two in a byte, and fp32 scales [values / block]


class Nf4Linear(FourBitLinear):
    """A linear layer whose weight is NF4 blocks."""

    scales: Tensor  # fp32, or 8-bit codes
    outer: Tensor  # the scales' scales

    def __init__(
        self, weight: Tensor, bias: Tensor | None, how: Quantisation, scratch: Scratch, coded: Coded | None = None
    ) -> None:
        """From an [out, in] weight, or what it is `coded` as."""
        super().__init__(weight, bias, how, scratch)
        self.offset = 0.0
        codes, scales = coded or _quantise(weight, how)
        self.register_buffer("codes", codes)
        if how.double:
            self.offset = float(scales.mean())
            bnb, codes_of_scales = functional(), _scale_codes(weight.device)  # its own are on the first caller's device
            scales, state = bnb.quantize_blockwise(
                scales - self.offset, code=codes_of_scales, blocksize=SCALES_PER_OUTER
            )
            self.register_buffer("outer", state.absmax.view(torch.uint8))
        self.register_buffer("scales", scales.view(torch.uint8))

    def _weight(self, dtype: torch.dtype) -> Tensor:
        """[out, in] in `dtype`, for the next product alone."""
        if dtype == torch.float64:
            return self._weight(torch.float32).double()
        scales, codes = self._scales(), self.codes
        values, block = self.out_features * self.in_features, self.how.block_size
        # bitsandbytes' kernel begins a new block with each row: rows of whole blocks, or all values as one row
        width = self.in_features if self.in_features % block == 0 else values
        rows = max(1, DEQUANTISED_AT_ONCE // width)
        if rows * width >= values:
            return _dequantised(codes, scales, (values // width, width), dtype, block).view(self.out_features, -1)
        flat = self.scratch.get(values, dtype, codes.device)
        for start in range(0, values, rows * width):
            stop = min(start + rows * width, values)
            part = codes[start // 2 : stop // 2], scales[start // block : stop // block]
            flat[start:stop] = _dequantised(*part, ((stop - start) // width, width), dtype, block).view(-1)
        return flat.view(self.out_features, -1)

    def _scales(self) -> Tensor:
        """fp32, one per block."""
        if not self.how.double:
            return self.scales.view(torch.float32)
        bnb, codes, outer = functional(), _scale_codes(self.codes.device), self.outer.view(torch.float32)
        scales: Tensor = bnb.dequantize_blockwise(self.scales, absmax=outer, code=codes, blocksize=SCALES_PER_OUTER)
        return scales.add_(self.offset)


def _quantise(weight: Tensor, how: Quantisation) -> Coded:
    """Rounded to the nearest, with the largest value of a block as its scale; in chunks, which end where blocks do."""
    flat = weight.reshape(-1)
    flat = flat.float() if flat.dtype == torch.float64 else flat
    coded = [coded_blocks(part, how.block_size) for part in torch.split(flat, QUANTISED_AT_ONCE)]
    return torch.cat([codes for codes, _ in coded]), torch.cat([scales for _, scales in coded])


def coded_blocks(values: Tensor, block: int, *, fast: bool = True) -> Coded:
    """[n] values as bitsandbytes codes them. Its torch code for this asks `bucketize`, which on a CPU takes many times what the
    fifteen comparisons here take, with the same result; and it knows no blocks below 32."""
    if block >= SMALLEST and (not fast or values.numel() % block):
        codes, state = functional().quantize_4bit(values, blocksize=block, quant_type="nf4")
        return codes.view(-1), state.absmax
    each = pad(values.float(), (0, -values.numel() % block)).view(-1, block)
    scales = each.abs().amax(1)
    scaled = (each * (1.0 / scales.clamp(min=1e-38)).view(-1, 1)).clamp_(-1, 1).view(-1)
    return packed_codes(nf4_codes(scaled)[: values.numel()]), scales


def nf4_codes(scaled: Tensor) -> Tensor:
    """uint8: which of the 16 values of NF4 is nearest to each."""
    codes, above = torch.zeros_like(scaled, dtype=torch.uint8), torch.empty_like(scaled, dtype=torch.bool)
    for bound in _bounds():
        codes.add_(torch.gt(scaled, bound, out=above))
    return codes


def packed_codes(codes: Tensor) -> Tensor:
    """[n / 2]: two of [n] codes in a byte, the first one in its upper half."""
    even = pad(codes, (0, codes.numel() % 2))
    return even[::2].bitwise_left_shift(4).bitwise_or_(even[1::2])


@functools.cache
def nf4_table(device: torch.device) -> Tensor:
    """[16] the values of NF4, fp32."""
    table: Tensor = functional().get_4bit_type("nf4", device=device)
    return table


@functools.cache
def _bounds() -> tuple[float, ...]:
    """Where one code ends and the next begins: halfway between the values of NF4."""
    table = nf4_table(torch.device("cpu"))
    return tuple(((table[1:] + table[:-1]) / 2).tolist())


def _dequantised(codes: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype, block: int) -> Tensor:
    if block < SMALLEST:  # in fp32, or values would be rounded twice
        count = shape[0] * shape[1]
        ones = scales.new_ones(-(-count // SMALLEST))
        plain = _dequantised(codes, ones, (1, count), torch.float32, SMALLEST).view(-1)
        if count % block:
            return plain.mul_(scales.repeat_interleave(block)[:count]).to(dtype).view(shape)
        return plain.view(-1, block).mul_(scales.view(-1, 1)).to(dtype).view(shape)
    bnb = functional()
    state = bnb.QuantState(absmax=scales, shape=shape, dtype=dtype, blocksize=block, quant_type="nf4")
    values: Tensor = bnb.dequantize_4bit(codes.view(-1, 1), state)
    return values


def plain_values(layer: Nf4Linear) -> Tensor:
    """[out, in] in fp32 by torch alone, as the paper defines it: the reference of every dequantisation here."""
    codes = layer.codes
    table = nf4_table(codes.device)
    each = torch.stack((codes >> 4, codes & 15), 1).view(-1)[: layer.out_features * layer.in_features].long()
    values = table[each] * layer._scales().repeat_interleave(layer.how.block_size)[: each.numel()]
    return values.view(layer.out_features, layer.in_features)
