"""An encoder's segments in rows of one length: the same attention as one by one, whatever their lengths."""

import pytest
import torch
from torch import Tensor

from tutelage.encode.types import Segment
from tutelage.engine import attention, grouped
from tutelage.engine.grouped import Grouped
from tutelage.engine.plan import QUERY_BLOCK, ROW, SHORT, Plan

HEADS, DIM = 3, 8
LENGTHS = {
    "short": [13, 1, 7, 20, 13, 13, 9, 33, 40, 2, 60],
    "of all lengths": [5, SHORT, 93, SHORT + 9, 13, ROW + 1, 2 * QUERY_BLOCK + 50],
    "long": [QUERY_BLOCK + 44, SHORT + 1],
    "one": [3],
}


def layout(lengths: list[int]) -> tuple[Segment, ...]:
    made, start = [], 0
    for length in lengths:
        made.append(Segment(start, start + length))
        start += length
    return tuple(made)


def drawn(count: int, segments: tuple[Segment, ...], dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(segments[-1].stop, HEADS * DIM, dtype=torch.float64).to(dtype) for _ in range(count)]


def plain(q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segment, ...]) -> Tensor:
    """[N, heads·D]: by the reference."""
    by_head = [x.view(len(x), HEADS, DIM).transpose(0, 1) for x in (q, k, v)]
    out = attention.reference(*by_head, Plan(segments), DIM**-0.5, False, None, None)
    return out.transpose(0, 1).reshape(len(q), -1)


@pytest.mark.parametrize("keeping", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_groups_give_plain_attention_and_its_gradients(
    lengths: list[int], dtype: torch.dtype, bound: float, keeping: bool
) -> None:
    segments = layout(lengths)
    q, k, v, grad = drawn(4, segments, dtype)
    exact = [x.double().clone().requires_grad_() for x in (q, k, v)]
    expected = plain(*exact, segments)
    wanted = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    them, kept = Grouped.of(segments, HEADS, dtype, q.device), list[Tensor]()
    gathered = [them.gather(x) for x in (q, k, v)]
    found = [them.spread(grouped.forward(*gathered, them, kept))]
    found += [them.spread(x) for x in grouped.backward(them.gather(grad), *gathered, them, kept if keeping else [])]
    again = [them.spread(x) for x in grouped.backward(them.gather(grad), *gathered, them, [])]
    assert all(torch.equal(a, b) for a, b in zip(found[1:], again))
    for ours, theirs in zip(found, wanted):
        assert torch.linalg.vector_norm(ours.double() - theirs) < bound * torch.linalg.vector_norm(theirs)


@pytest.mark.parametrize("keeping", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_dropout_of_weights_and_its_gradients(lengths: list[int], keeping: bool) -> None:
    segments = layout(lengths)
    q, k, v, grad, *steps = drawn(7, segments, torch.float64)
    them, kept = Grouped.of(segments, HEADS, q.dtype, q.device), list[Tensor]()
    gathered = [them.gather(x) for x in (q, k, v)]
    masks = them.masks(0.375, q.dtype)
    assert {float(value) for mask in masks for value in mask.unique()} == {0.0, 1.6}
    assert them.masks(0.0, q.dtype) == []

    def at(length: float) -> Tensor:
        moved = [them.gather(x + length * step) for x, step in zip((q, k, v), steps)]
        return (them.spread(grouped.forward(*moved, them, [], masks)) * grad).sum()

    without = them.spread(grouped.forward(*gathered, them, []))
    assert not torch.allclose(them.spread(grouped.forward(*gathered, them, kept, masks)), without)
    found = grouped.backward(them.gather(grad), *gathered, them, kept if keeping else [], masks)
    slope = sum(float((them.spread(x) * step).sum()) for x, step in zip(found, steps))
    assert slope == pytest.approx(float(at(1e-6) - at(-1e-6)) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_head_of_every_token_has_one_place(lengths: list[int]) -> None:
    segments = layout(lengths)
    them = Grouped.of(segments, HEADS, torch.float32, torch.device("cpu"))
    (x,) = drawn(1, segments, torch.float32)
    assert torch.equal(them.spread(them.gather(x)), x)
    assert len(them.places.unique()) == len(x) * HEADS
    assert them.groups[-1].stop == len(them.taken)


def test_short_segments_share_rows_and_long_ones_keep_no_weights() -> None:
    segments = layout(LENGTHS["of all lengths"])
    q, k, v = drawn(3, segments, torch.float32)
    them, kept = Grouped.of(segments, HEADS, q.dtype, q.device), list[Tensor]()
    grouped.forward(them.gather(q), them.gather(k), them.gather(v), them, kept)
    assert [(group.long, group.length) for group in them.groups] == [
        (True, 2 * QUERY_BLOCK + 50), (True, SHORT + 9), (False, SHORT + 93 + ROW + 1), (False, 13 + 5),
    ]  # fmt: skip
    assert [tuple(p.shape) for p in kept] == [(3 * HEADS, SHORT, SHORT), (HEADS, 32, 32)]
