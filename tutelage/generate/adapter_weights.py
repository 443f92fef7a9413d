"""LoRA's matrices in the form that a batch uses: those of layers that are computed together put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The linear layers of a Llama block that one product computes, by the name of the first.
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"), "down": ("mlp.down_proj",),
}  # fmt: skip


@dataclass(frozen=True)
class LowRank:
    """x → x `down`ᵀ `up`ᵀ is added to a layer's output: `down` [r, in], `up` [out, r], scaled."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class AdapterWeights:
    """One adapter: for each block, by the name of a fused layer, what is added."""

    blocks: tuple[dict[str, LowRank], ...]


def fuse(
    pairs: Mapping[str, tuple[Tensor, Tensor]], scale: float, sizes: Mapping[str, int], layers: int, dtype: torch.dtype
) -> AdapterWeights:
    """The adapter whose (A [r, in], B [out, r]) `pairs` are named as in the model, e.g. `layers.0.mlp.up_proj`.

    `sizes` are the output sizes of the layers of a block. A and B are rounded to `dtype` one by one, as in training.
    """
    blocks = []
    for number in range(layers):
        block = {}
        for name, parts in FUSED.items():
            found = [pairs.get(f"layers.{number}.{part}") for part in parts]
            if any(pair is not None for pair in found):
                block[name] = _stacked(found, [sizes[part] for part in parts], scale, dtype)
        blocks.append(block)
    return AdapterWeights(tuple(blocks))


def _stacked(
    found: Sequence[tuple[Tensor, Tensor] | None], sizes: Sequence[int], scale: float, dtype: torch.dtype
) -> LowRank:
    """Block-diagonal: each layer's part of the output sees its own A only."""
    pairs = [pair for pair in found if pair is not None]
    ranks = sum(pair[0].shape[0] for pair in pairs)
    down = torch.cat([a.to(dtype) for a, _ in pairs])
    up = torch.zeros(sum(sizes), ranks, dtype=dtype)
    row = column = 0
    for pair, size in zip(found, sizes):
        if pair is not None:
            rank = pair[0].shape[0]
            up[row : row + size, column : column + rank] = pair[1].to(dtype) * scale
            column += rank
        row += size
    return LowRank(down, up)
