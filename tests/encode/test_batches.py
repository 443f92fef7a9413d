"""Which rows make a step: nothing but (seed, epoch, index) decides it, and no row is lost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tutelage.encode.batches import Batches, micro_batches


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**31), st.integers(0, 5))
def test_every_row_exactly_once_per_epoch(rows: int, size: int, seed: int, epoch: int) -> None:
    batches = Batches(rows, size, seed)
    steps = [batches.of_step(epoch * batches.per_epoch + i) for i in range(batches.per_epoch)]
    assert sorted(int(i) for step in steps for i in step) == list(range(rows))
    assert all(len(step) == size for step in steps[:-1])
    assert 1 <= len(steps[-1]) <= size


def test_a_step_is_a_pure_function() -> None:
    wanted = [Batches(23, 4, 7).of_step(i).tolist() for i in range(30)]
    fresh = Batches(23, 4, 7)
    for i in reversed(range(30)):  # in any order, and whatever other generators draw
        np.random.default_rng().random(i)
        np.random.random(3)
        assert fresh.of_step(i).tolist() == wanted[i]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(Batches(50, 5, seed).order(epoch).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_the_order_is_fixed_for_ever() -> None:
    """A run that is continued by a later version must see the same rows."""
    assert Batches(10, 3, 0).order(0).tolist() == [0, 7, 8, 6, 9, 5, 1, 3, 2, 4]
    assert Batches(10, 3, 5).order(2).tolist() == [3, 7, 5, 0, 2, 8, 4, 9, 6, 1]


@given(st.lists(st.integers(1, 120), min_size=1, max_size=40), st.integers(1, 200))
def test_micro_batches_respect_the_budget_and_lose_no_row(lengths: list[int], budget: int) -> None:
    rows = [1000 + i for i in range(len(lengths))]
    groups = micro_batches(rows, lengths, budget)
    assert sorted(row for group in groups for row in group) == rows
    for group in groups:
        total = sum(lengths[row - 1000] for row in group)
        assert total <= budget or len(group) == 1


@given(st.lists(st.integers(1, 120), min_size=1, max_size=40))
def test_a_large_budget_is_one_micro_batch_and_the_smallest_one_row_each(lengths: list[int]) -> None:
    rows = list(range(len(lengths)))
    assert len(micro_batches(rows, lengths, sum(lengths))) == 1
    assert len(micro_batches(rows, lengths, 1)) == len(rows) or 1 in lengths


def test_groups_are_well_filled() -> None:
    """Longest first into the emptiest group needs few groups, and fills them alike."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 400, 300).tolist()
    groups = micro_batches(range(300), lengths, 1024)
    assert len(groups) <= 11 / 9 * (sum(lengths) / 1024) + 1
    loads = [sum(lengths[i] for i in group) for group in groups]
    assert max(loads) - min(loads) <= 400


def test_the_order_of_an_epoch_is_computed_once() -> None:
    """A step's cost must not grow with the rows."""
    batches = Batches(1000, 8, 3)
    assert batches.order(5) is Batches(1000, 8, 3).order(5)
    assert not batches.order(5).flags.writeable
