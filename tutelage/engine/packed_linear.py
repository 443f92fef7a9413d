"""A frozen linear layer for inference, its weight laid out once in the order that the CPU's matrix unit reads.

oneDNN otherwise reorders the weight at every call, which for one row costs as much as the product itself. The plain
product stands beside it; where the packing is not to be had (other devices, other dtypes, other builds), that one runs.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

PACKED_DTYPES = (torch.bfloat16,)


class PackedLinear:
    """y = x Wᵀ + b for x of [rows, in]. Keeps one copy of the weight: the packed one where there is one."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, fast: bool = True) -> None:
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.packed = fast and can_pack(weight)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1) if self.packed else weight
        self._product = torch.ops.mkldnn._linear_pointwise.default if self.packed else None

    def __call__(self, x: Tensor, groups: object = None) -> Tensor:
        """[rows, in] → [rows, out]. `groups` are for layers with adapters, in whose place this one stands without a detour."""
        if self._product is not None:
            y: Tensor = self._product(x, self.weight, self.bias, "none", [], "")
            return y
        return linear(x, self.weight, self.bias)


def can_pack(weight: Tensor) -> bool:
    """Whether this weight has a packed form on this machine."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in PACKED_DTYPES
        and torch._C._has_mkldnn
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
