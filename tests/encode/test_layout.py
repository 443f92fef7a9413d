"""Rows on one axis, worked out by hand."""

import numpy as np
import torch

from tutelage.data.types import At
from tutelage.encode import layout as module
from tutelage.encode.layout import make_layout, shared_prefix
from tutelage.encode.types import Encoded, Segment


def row(ids: list[int], weights: list[float]) -> Encoded:
    return Encoded(np.array(ids, np.int32), np.array(weights, np.float32), np.zeros(len(ids), np.uint8), At("x", 1))


PREFIX = list(range(100, 100 + module.MIN_SHARED))  # eight tokens
A = row([*PREFIX, 1, 2, 3], [0] * 8 + [0, 1, 0.5])
B = row([*PREFIX, 4, 5], [0] * 8 + [1, 1])


def test_packing_by_hand() -> None:
    layout = make_layout([A, B], share_prefix=False)
    assert layout.ids.tolist() == [*PREFIX, 1, 2, 3, *PREFIX, 4, 5]
    assert layout.positions.tolist() == [*range(11), *range(10)]
    assert layout.segments == (Segment(0, 11), Segment(11, 21))
    assert layout.sources.tolist() == [8, 9, 18, 19]
    assert layout.labels.tolist() == [2, 3, 4, 5]
    assert layout.weights.tolist() == [1.0, 0.5, 1.0, 1.0]
    assert layout.tokens == 21


def test_a_shared_prefix_by_hand() -> None:
    assert shared_prefix([A, B]) == 8
    layout = make_layout([A, B], share_prefix=True)
    assert layout.ids.tolist() == [*PREFIX, 1, 2, 3, 4, 5]
    assert layout.positions.tolist() == [*range(8), 8, 9, 10, 8, 9]
    assert layout.segments == (Segment(0, 8), Segment(8, 11, 0), Segment(11, 13, 0))
    assert layout.sources.tolist() == [8, 9, 7, 11]  # B's first target is predicted from the last prefix token
    assert layout.labels.tolist() == [2, 3, 4, 5]
    assert layout.weights.tolist() == [1.0, 0.5, 1.0, 1.0]
    assert layout.tokens == 21  # of the rows themselves, whatever is computed


def test_dtypes_are_what_the_engine_takes() -> None:
    layout = make_layout([A, B], share_prefix=True)
    assert {layout.ids.dtype, layout.positions.dtype, layout.sources.dtype, layout.labels.dtype} == {torch.int64}
    assert layout.weights.dtype == torch.float32


def test_the_prefix_ends_before_the_first_trained_token() -> None:
    early = row([*PREFIX, 9, 9, 9], [0] * 8 + [0, 1, 1])
    assert shared_prefix([early, early]) == 9
    trained = row([*PREFIX, 9, 9, 9], [0] * 7 + [1, 1, 1, 1])
    assert shared_prefix([trained, trained]) == 0  # seven tokens are not worth a segment


def test_every_row_keeps_a_token_of_its_own() -> None:
    bare = row([*PREFIX, 7], [0] * 9)
    assert shared_prefix([bare, bare]) == 8
    assert shared_prefix([row(PREFIX, [0] * 8), bare]) == 0
    assert shared_prefix([A]) == 0


def test_a_short_common_prefix_is_not_shared() -> None:
    rows = [row([100, 101, 1, 2], [0, 0, 1, 1]), row([100, 101, 3, 4], [0, 0, 1, 1])]
    layout = make_layout(rows, share_prefix=True)
    assert layout.segments == (Segment(0, 4), Segment(4, 8))


def test_a_weight_on_the_first_token_is_no_target() -> None:
    layout = make_layout([row([5, 6], [1, 1])], share_prefix=False)
    assert layout.labels.tolist() == [6]
    assert layout.sources.tolist() == [0]


def test_shared_and_packed_layouts_hold_the_same_targets() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = []
        for _ in range(int(rng.integers(1, 6))):
            length = int(rng.integers(1, 12))
            weights = rng.choice([0.0, 0.5, 1.0], 8 + length)
            weights[: int(rng.integers(0, 9))] = 0
            rows.append(row([*PREFIX, *rng.integers(0, 3, length)], weights.tolist()))
        packed, shared = make_layout(rows, share_prefix=False), make_layout(rows, share_prefix=True)
        for one, two in ((packed.labels, shared.labels), (packed.weights, shared.weights)):
            assert one.tolist() == two.tolist()
        assert packed.ids[packed.sources].tolist() == shared.ids[shared.sources].tolist()
        assert packed.positions[packed.sources].tolist() == shared.positions[shared.sources].tolist()
        assert packed.tokens == shared.tokens


def test_filling_adds_a_segment_that_nobody_reads() -> None:
    plain, filled = (make_layout([A, B], share_prefix=False, fill=fill) for fill in (False, True))
    assert len(filled.ids) == 32
    assert filled.segments == (*plain.segments, Segment(21, 32))
    assert filled.positions[21:].tolist() == [0] * 11
    assert filled.tokens == 21
    assert torch.equal(filled.sources, plain.sources)
    assert torch.equal(filled.ids[:21], plain.ids)
