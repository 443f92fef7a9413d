"""The rows of a self-test keep what makes it strict, whatever the user's rows are like."""

import numpy as np
import pytest

from tutelage.data.types import At
from tutelage.encode.layout import shared_prefix
from tutelage.encode.types import Encoded
from tutelage.train.selftest.rows import LENGTHS, random_rows, sample_rows


def row(length: int, first_target: int, start: int = 3) -> Encoded:
    ids = np.arange(start, start + length, dtype=np.int32)
    weights = np.zeros(length, np.float32)
    weights[first_target:] = 1.0
    return Encoded(ids, weights, np.zeros(length, np.uint8), At("rows", 1))


@pytest.mark.parametrize(
    "rows",
    [
        [row(900 + i, 800, start=3 + i) for i in range(9)],  # long prompts, no common prefix
        [row(300, 20)],  # one row only
        [row(40, 12), row(12, 11), row(700, 12), row(41, 40)],  # one target in some
        [row(3, 1), row(4, 1, start=9)],  # hardly any tokens
    ],
    ids=["long prompts", "one row", "few targets", "tiny"],
)
def test_sampled_rows_share_a_prefix_differ_in_length_and_keep_targets(rows: list[Encoded]) -> None:
    short = sample_rows(rows)
    assert len(short) == len(LENGTHS)
    assert shared_prefix(short) > 0
    assert all(np.any(each.weights[1:] > 0) for each in short)
    assert max(len(each.ids) for each in short) <= max(LENGTHS) + 11
    assert all(len(each.ids) == len(each.weights) == len(each.roles) for each in short)
    if max(len(each.ids) for each in rows) > 100:
        assert len({len(each.ids) for each in short}) > 2


def test_random_rows_are_unequal_and_the_same_each_time() -> None:
    one, two = random_rows(512), random_rows(512)
    assert [len(each.ids) for each in one] == list(LENGTHS)
    assert len({float(each.weights.sum()) for each in one}) > 3
    assert shared_prefix(one) >= 11
    assert all(np.array_equal(a.ids, b.ids) and np.array_equal(a.weights, b.weights) for a, b in zip(one, two))
