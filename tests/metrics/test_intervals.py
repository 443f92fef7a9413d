"""Intervals: against numbers from elsewhere, at the ends of the range, over documents, and the verdicts they allow."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, t

from tutelage.errors import DataError
from tutelage.metrics import METRICS, Prediction, difference, estimate
from tutelage.metrics.intervals import RESAMPLES, _student, draws, wilson
from tutelage.metrics.statistics import About, Summed, mean, share, value_of

Make = Callable[..., list[Prediction]]


@pytest.mark.parametrize("hits, trials", [(0, 10), (10, 10), (1, 3), (80, 100), (2999, 3080)])
def test_wilson_as_scipy(hits: int, trials: int) -> None:
    theirs = binomtest(hits, trials).proportion_ci(0.95, "wilson")
    assert wilson(hits, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 30, 99, 3000])
def test_students_quantile_as_scipy(freedom: int) -> None:
    assert _student(0.975, freedom) == pytest.approx(t.ppf(0.975, freedom), rel=3e-3)


def test_the_bootstrap_is_bca_as_scipy_has_it_but_for_the_wider_levels() -> None:
    values = np.random.default_rng(0).lognormal(size=400)
    ours = estimate(mean(values, About(high=np.inf)), resamples=20_000)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_an_estimate_says_its_method_and_number_and_is_the_same_twice(labels: Make) -> None:
    rows = labels(120, 4, 0)
    accuracy = estimate(METRICS.get("accuracy")(rows))
    assert (accuracy.n, accuracy.method) == (120, "Wilson")
    f1 = estimate(METRICS.get("f1_macro")(rows), seed=3)
    assert f1 == estimate(METRICS.get("f1_macro")(rows), seed=3)
    assert f1 != estimate(METRICS.get("f1_macro")(rows), seed=4)
    assert f1.method == f"BCa bootstrap, {RESAMPLES:,} resamples"
    assert f1.low < f1.value < f1.high


def test_rows_of_one_document_are_drawn_together() -> None:
    # Ten documents of ten rows, each all right or all wrong: 10 observations, not 100.
    hits = [document % 2 == 0 for document in range(10) for _ in range(10)]
    groups = [f"document {i // 10}" for i in range(100)]
    alone, together = estimate(share(hits)), estimate(share(hits), groups)
    assert together.high - together.low > 2.5 * (alone.high - alone.low)
    assert together.method.endswith("over 10 groups")
    assert together.n == 100
    # Groups of one row, and rows without a name, are independent rows.
    assert estimate(share(hits), [""] * 100) == alone
    with pytest.raises(DataError, match="99 group names for 100 examples"):
        estimate(share(hits), groups[:99])


def test_a_perfect_score_is_not_certain() -> None:
    perfect = estimate(mean([1.0] * 50, About()))
    assert perfect.high == 1
    assert perfect.low == pytest.approx(wilson(50, 50)[0])
    assert "end of the range" in perfect.method
    none = estimate(mean([0.0] * 50, About(high=100.0)))
    assert (none.low, none.value) == (0, 0)
    assert none.high == pytest.approx(100 * wilson(0, 50)[1])


def test_one_row_says_nothing_of_its_spread() -> None:
    found = estimate(mean([0.4], About()))
    assert (found.low, found.high, found.n) == (0, 1, 1)
    assert "single unit" in found.method


def test_draws_count_every_unit_and_have_the_right_size() -> None:
    weights = np.concatenate(list(draws(3000, 1500, 0)))
    assert weights.shape == (1500, 3000)
    assert (weights.sum(axis=1) == 3000).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(3000), abs=0.15)


def test_verdicts() -> None:
    good, bad = [True] * 80, [True] * 50 + [False] * 30
    one, two = share(bad), share(good)
    assert difference(one, two).verdict == "better"
    assert difference(two, one).verdict == "worse"
    assert difference(one, one).sentence == "cannot tell with n = 80"
    assert difference(one, two).method == "Bonett-Price"
    rng = np.random.default_rng(0)
    high = rng.normal(2.0, 0.3, size=80)
    lower_is_better = About(high=np.inf, higher_is_better=False)
    neutral = About(high=np.inf, higher_is_better=None)
    low = high - rng.normal(0.5, 0.1, size=80)
    assert difference(mean(high, lower_is_better), mean(low, lower_is_better)).verdict == "better"
    assert difference(mean(high, neutral), mean(low, neutral)).verdict == "different"
    with pytest.raises(DataError, match="80 and 79 rows"):
        difference(one, share(good[1:]))


def test_pairing_sees_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(5.0, 2.0, size=100)
    first, second = mean(rows, About(high=np.inf)), mean(rows + rng.normal(0.1, 0.1, size=100), About(high=np.inf))
    assert estimate(first).high > estimate(second).low
    assert difference(first, second).verdict == "better"


def test_many_units_are_left_out_in_blocks_and_give_nearly_the_same() -> None:
    values = np.random.default_rng(2).lognormal(size=5000)
    large = estimate(mean(values, About(high=np.inf)))
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="BCa", rng=1).confidence_interval
    assert large.low == pytest.approx(theirs.low, abs=0.1 * (theirs.high - theirs.low))


def test_grouped_sums_are_the_same_score(labels: Make) -> None:
    statistic = METRICS.get("f1_macro")(labels(60, 3, 0))
    assert isinstance(statistic, Summed)
    assert value_of(statistic.grouped(np.arange(60) // 6)) == pytest.approx(value_of(statistic))
