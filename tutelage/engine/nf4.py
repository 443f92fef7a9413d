"""Frozen linear weights in 4-bit NormalFloat with double quantisation (QLoRA: Dettmers et al. 2023, arXiv 2305.14314 §3).

Blocks of 64 values (or 16 to 1,024) share a scale; a value is one of 16 quantiles of the normal distribution, in 4 bits. With
double quantisation the scales themselves are 8-bit, 256 of them sharing an fp32 one. bitsandbytes' functions quantise and
dequantise; its Linear4bit is not used: on AVX512-BF16 processors it repacks its weight at the first evaluation, and then loses the
input's gradient. Here a weight is dequantised for each product, forward and backward alike, and nothing of it is kept.
"""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers.pytorch_utils import Conv1D

from tutelage.engine.linear import BaseLinear
from tutelage.errors import need

QUANTISED_AT_ONCE = 1 << 15  # values: a chunk's temporaries stay in the cache, and out of the loading peak
DEQUANTISED_AT_ONCE = (
    1 << 20
)  # beyond about 32 MB the allocator maps a result anew each time, which costs more than to copy it
SCALES_PER_OUTER = 256
SMALLEST = 32  # values in a block of bitsandbytes' kernels; ours of 16 are read by them as if all scales were 1


@dataclass(frozen=True)
class Quantisation:
    """How weights are stored. `double`: whether the scales are quantised too. `blocks`: a file that has codes and scales ready."""

    block_size: int = 64  # values per scale
    double: bool = True
    blocks: Path | None = None

    @property
    def bits(self) -> float:
        """Bits per weight: 4.127 with the defaults."""
        scale = 8 + 32 / SCALES_PER_OUTER if self.double else 32
        return 4 + scale / self.block_size


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


class Scratch:
    """One buffer per dtype and device, as large as the largest weight so far. Its content lasts until the next weight: for
    one thread, and never for autograd to keep."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def get(self, values: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[values], uninitialised."""
        known = self.buffers.get((dtype, device))
        if known is None or known.numel() < values:
            self.buffers[dtype, device] = known = torch.empty(values, dtype=dtype, device=device)
        return known[:values]


Coded = tuple[Tensor, Tensor]  # codes [values / 2], two in a byte, and fp32 scales [values / block]


class Nf4Linear(BaseLinear):
    """A linear layer whose weight is NF4 blocks; usable as a module by itself, as layers without an adapter are.

    All buffers are bytes, fp32 scales too, so that `model.to(dtype)` cannot round them. `compute` is empty: it knows the dtype
    that the model computes in.
    """

    standalone = True
    codes: Tensor  # two in a byte
    scales: Tensor
    outer: Tensor  # the scales' scales
    compute: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor | None, how: Quantisation, scratch: Scratch, coded: Coded | None = None
    ) -> None:
        """From an [out, in] weight, of which nothing is kept, or what it is `coded` as. Frozen; a bias stays as it is."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.how, self.scratch = how, scratch
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
        self.register_buffer("compute", torch.empty(0, dtype=weight.dtype, device=weight.device), persistent=False)
        self.added = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @staticmethod
    def of(module: nn.Module, how: Quantisation, scratch: Scratch, coded: Coded | None = None) -> "Nf4Linear":
        """The quantised form of an nn.Linear or a Conv1D; `coded` is what its [out, in] weight was rounded to already."""
        inner: Any = module
        weight, turned = inner.weight.detach(), isinstance(module, Conv1D)
        made = Nf4Linear(weight.t() if turned else weight, inner.bias, how, scratch, coded)
        made.fan_in_fan_out = turned
        return made

    @property
    def weight_bytes(self) -> int:
        """What the weight takes: codes and scales."""
        return sum(int(buffer.numel()) for name, buffer in self.named_buffers() if name != "compute")

    @property
    def like(self) -> Tensor:
        return self.compute

    @property
    def weight(self) -> Tensor:
        """An empty tensor of the compute dtype, for models that look at a layer's dtype (T5)."""
        return self.like

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return self.matmul(x)

    def matmul(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call,no-any-return]
        return linear(x, self._weight(x.dtype), self.added)

    def matmul_t(self, g: Tensor, into: Tensor | None = None) -> Tensor:
        weight = self._weight(g.dtype)
        return g @ weight if into is None else into.addmm_(g, weight)

    def dense(self) -> Tensor:
        return self._weight(self.like.dtype).clone()

    def bias(self) -> Tensor | None:
        return self.added

    def add_(self, delta: Tensor) -> None:
        raise TypeError("NF4 blocks cannot take up a change: dequantise the model first")

    def module(self) -> nn.Module:
        """The plain layer, its weight dequantised."""
        dense, turned = self.dense(), self.fan_in_fan_out
        with torch.device("meta"):
            plain: Any = (
                Conv1D(*dense.shape)
                if turned
                else nn.Linear(self.in_features, self.out_features, self.added is not None)
            )
        plain.weight = nn.Parameter(dense.t().contiguous() if turned else dense, requires_grad=False)
        if self.added is not None:
            plain.bias = self.added
        return plain.eval()  # type: ignore[no-any-return]

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


class _FrozenProduct(torch.autograd.Function):
    """x Wᵀ + b by itself. Nothing is saved: the backward dequantises again, as the scratch may hold another weight by then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Nf4Linear) -> Tensor:
        ctx.base = base
        return base.matmul(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.base.matmul_t(gradients[0]), None


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
