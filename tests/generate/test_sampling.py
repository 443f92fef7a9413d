import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tutelage.errors import UsageError
from tutelage.generate.sampling import Sampling, filtered, next_id, penalised


def logits(seed: int, size: int = 64) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


def test_temperature_zero_takes_the_likeliest() -> None:
    for seed in range(20):
        assert next_id(logits(seed), Sampling()) == int(logits(seed).argmax())


def test_a_seed_repeats_its_draws_and_another_draws_otherwise() -> None:
    def draws(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [next_id(logits(i), Sampling(temperature=1.0), generator=generator) for i in range(30)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10_000), k=st.integers(0, 80),
    p=st.floats(0.01, 1.0, exclude_min=True), m=st.floats(0.0, 1.0),
)  # fmt: skip
def test_filters_rule_out_what_transformers_rules_out(seed: int, k: int, p: float, m: float) -> None:
    scores = logits(seed)
    expected = scores[None]
    if k:
        expected = TopKLogitsWarper(k)(None, expected)
    if p < 1.0:
        expected = TopPLogitsWarper(p)(None, expected)
    if m:
        expected = MinPLogitsWarper(m)(None, expected)
    assert torch.equal(filtered(scores, Sampling(temperature=1.0, top_k=k, top_p=p, min_p=m)), expected[0])


def test_repetition_penalty_is_that_of_transformers() -> None:
    scores, seen = logits(3), torch.tensor([1, 5, 5, 60])
    assert (scores[seen] < 0).any()
    assert (scores[seen] > 0).any()
    expected = RepetitionPenaltyLogitsProcessor(1.3)(seen[None], scores[None].clone())
    assert torch.equal(penalised(scores, seen, 1.3), expected[0])


def test_draws_follow_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.log(torch.tensor([0.7, 0.2, 0.1]))
    counts = [0, 0, 0]
    for _ in range(3000):
        counts[next_id(scores, Sampling(temperature=1.0), generator=generator)] += 1
    assert counts[0] / 3000 == pytest.approx(0.7, abs=0.04)
    assert counts[2] / 3000 == pytest.approx(0.1, abs=0.03)


def test_wrong_settings_are_all_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(temperature=-1, top_p=0.0, top_k=-2, min_p=2.0, repetition_penalty=float("nan"))
    assert [problem.where for problem in caught.value.problems] == [
        "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    ]  # fmt: skip


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_keeps_what_sorting_everything_keeps(top_p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for spread in (0.01, 1.0, 5.0):
        scores = torch.randn(2000, generator=generator) * spread
        ordered, order = torch.softmax(scores.double(), dim=-1).sort()
        out = ordered.cumsum(dim=-1) <= 1.0 - top_p
        out[-1] = False
        kept = torch.isfinite(filtered(scores, Sampling(temperature=1.0, top_p=top_p))).nonzero()[:, 0].tolist()
        expected = sorted(order[~out].tolist())
        assert len(set(kept) ^ set(expected)) <= 1  # the one on the edge may fall either way by rounding
