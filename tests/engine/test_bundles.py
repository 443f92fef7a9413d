"""Short segments multiplied together: the same attention as one by one, whatever their lengths, parents and windows."""

import pytest
import torch

from tutelage.encode.types import Segment
from tutelage.engine import attention
from tutelage.engine.plan import SHORT, Bundle, Plan, bundled

LIKE = torch.float64, torch.device("cpu")


def segments(seed: int, parent: int) -> tuple[Segment, ...]:
    """Rows of 1 to 40 tokens, and one of more than `SHORT`; behind a parent of that many tokens, if any."""
    lengths = [*(1 + torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:13]).tolist(), SHORT + 9]
    made = [Segment(0, parent)] if parent else []
    for length in lengths:
        start = made[-1].stop if made else 0
        made.append(Segment(start, start + length, 0 if parent else None))
    return tuple(made)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("parent", [0, 11, 150])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (False, None), (True, 25), (False, 25)])
def test_bundles_give_plain_attention_and_its_gradients(
    causal: bool, window: int | None, parent: int, softcap: float | None
) -> None:
    torch.manual_seed(0)
    plan = Plan(segments(0, parent))
    tokens = plan.segments[-1].stop
    q, k, v = (torch.randn(h, tokens, 8, dtype=torch.float64, requires_grad=True) for h in (4, 2, 2))
    expected = attention.reference(q, k, v, plan, 0.3, causal, window, softcap)
    wanted = torch.autograd.grad((expected**2).sum(), (q, k, v))
    ours = attention.fast(q, k, v, plan, 0.3, causal, window, softcap)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    for got, want in zip(torch.autograd.grad((ours**2).sum(), (q, k, v)), wanted):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("parent", [0, 11])
def test_every_token_is_computed_once(parent: int) -> None:
    layout = segments(1, parent)
    found = bundled(layout, True, None, *LIKE)
    seen = [token for bundle in found.together for token in held(bundle)]
    seen += [token for segment in found.apart for token in range(segment.start, segment.stop)]
    assert sorted(seen) == list(range(layout[-1].stop))
    assert len(found.apart) < 5
    assert all(bundle.stop == parent for bundle in found.together)
    assert all(bundle.index.numel() <= 512 + 3 * bundle.empty.shape[1] for bundle in found.together)
    parts = [bundle.index[None] for bundle in found.together]
    parts += [torch.arange(segment.start, segment.stop)[None] for segment in found.apart]
    assert found.in_order(parts)[0].tolist() == list(range(layout[-1].stop))


def held(bundle: Bundle) -> list[int]:
    """The tokens of a bundle."""
    tokens: list[int] = bundle.index[~bundle.empty.flatten()].tolist()
    assert bundle.held[bundle.held >= 0].tolist() == tokens
    return tokens


def test_a_window_that_hides_something_keeps_its_segment_apart() -> None:
    layout = (Segment(0, 20), Segment(20, 40), Segment(40, 50), Segment(50, 60))
    found = bundled(layout, True, 15, *LIKE)
    assert found.apart == layout[:2]
    assert [held(bundle) for bundle in found.together] == [list(range(40, 60))]


def test_short_segments_share_rows() -> None:
    layout = tuple(Segment(12 * i, 12 * i + 12) for i in range(10))
    found = bundled(layout, False, None, *LIKE)
    (bundle,) = found.together
    assert not found.apart
    assert bundle.empty.shape == (2, 64)
    assert int(bundle.empty.sum()) == 128 - 120
