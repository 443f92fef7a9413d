import pytest
import torch

from tutelage.engine.packed_linear import PackedLinear, can_pack


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("bias", [False, True])
def test_the_packed_product_is_the_plain_one(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    weight = torch.randn(96, 48).to(torch.bfloat16)
    offset = torch.randn(96).to(torch.bfloat16) if bias else None
    x = torch.randn(rows, 48).to(torch.bfloat16)
    fast, plain = PackedLinear(weight, offset), PackedLinear(weight, offset, fast=False)
    assert not plain.packed
    assert fast.packed is can_pack(weight)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), plain(x), rtol=2e-2, atol=6e-2)  # one rounding to bfloat16 apart


def test_only_bfloat16_on_the_processor_is_packed() -> None:
    assert not can_pack(torch.zeros(4, 4))
    assert not can_pack(torch.zeros(4, 4, dtype=torch.bfloat16, device="meta"))
