"""Rounding to bf16 by fixed thresholds: unbiased, exact where bf16 is, the same every time."""

import torch

from tutelage.engine.rounding import BLOCK, Rounding, rounded


def test_what_bf16_holds_stays() -> None:
    values = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    assert torch.equal(rounded(values, "w").float(), values)
    for odd in (0.0, -0.0, float("inf"), float("-inf"), 2.0**-133, -(2.0**-133), 3.3895313892515355e38):
        values = torch.full((2 * BLOCK,), odd)  # at every threshold
        found = rounded(values, "w").float()
        assert torch.equal(found, values)
        assert torch.equal(torch.signbit(found), torch.signbit(values))
    assert bool(rounded(torch.full((2 * BLOCK,), float("nan")), "w").isnan().all())


def test_what_is_smaller_than_any_bf16_becomes_zero_or_the_smallest() -> None:
    for sign in (1.0, -1.0):
        smallest = sign * 2.0**-133
        found = rounded(torch.full((2 * BLOCK,), 0.25 * smallest), "w").float()
        assert {float(value) for value in found.unique()} == {0.0, smallest}
        assert abs(float((found != 0).float().mean()) - 0.25) < 0.005


def test_each_value_becomes_one_of_its_two_neighbours_and_the_mean_is_right() -> None:
    for sign in (1.0, -1.0):
        low, high = sign * 1.0, sign * (1.0 + 2**-7)
        for share in (0.1, 0.5, 0.9):
            values = torch.full((2 * BLOCK + 77,), low + share * (high - low))
            found = rounded(values, "w").float()
            assert {float(value) for value in found.unique()} == {low, high}
            assert (
                abs(float((found == high).float().mean()) - share) < 0.005
            )  # 0.0014 is its standard deviation at most


def test_a_value_that_grows_rounds_up_once_and_stays_up() -> None:
    before = None
    for share in torch.linspace(0, 1, 21):
        found = rounded(torch.full((5000,), 1.0) + share * 2**-7, "w").float()
        assert before is None or bool((found >= before).all())
        before = found
    assert before is not None
    assert torch.equal(before, torch.full((5000,), 1.0 + 2**-7))


def test_it_is_a_function_of_the_values_and_the_name() -> None:
    values = torch.randn(4, 700, generator=torch.Generator().manual_seed(1))
    first, other = rounded(values, "a"), rounded(values, "b")
    assert torch.equal(first, rounded(values, "a"))
    assert not torch.equal(first, other)
    into = torch.empty(4, 700, dtype=torch.bfloat16)
    rounding = Rounding(values, "a", into)
    rounding()
    assert torch.equal(into, first)
    values.mul_(0.9)
    rounding()
    assert torch.equal(into, rounded(values, "a"))


def test_long_tensors_go_on_where_a_block_ends() -> None:
    values = torch.randn(BLOCK + 5, generator=torch.Generator().manual_seed(2))
    found = rounded(values, "w")
    assert bool(((found.float() - values).abs() <= values.abs() * 2**-7).all())
    assert torch.equal(found[:BLOCK], rounded(values[:BLOCK], "w"))
