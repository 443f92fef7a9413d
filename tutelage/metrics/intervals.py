"""Confidence intervals of scores and of differences between two systems on the same rows, and what they allow to say.

A share of independent examples has Wilson's interval. Other scores are resampled: examples, or the groups that they
share, with the bias-corrected and accelerated bootstrap (BCa; Efron, JASA 1987, section 3), whose levels are widened
as Hesterberg proposes (The American Statistician 2015, section 5: a percentile interval of few units is too narrow by
the factor between Student's and the normal quantile). Means without an upper limit, such as losses, have long tails, and
there the bootstrap-t covers better. Counts of distinct things shrink when rows repeat, so they have
the jackknife's interval instead. So have differences: those of two systems are nearly symmetric, often with heavy
tails, and there BCa called equal systems different too often. bench/statistics/coverage.py measures all of this.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import DataError
from tutelage.metrics.statistics import CHUNK, Array, Statistic, Summed, value_of

LEVEL = 0.95
RESAMPLES = 2000
MOST_LEFT_OUT = 1000  # units of the jackknife; more are left out in blocks, which estimates the same acceleration
NORMAL = NormalDist()
NO_SPREAD = "none (a single unit, or no such score, says nothing of its spread)"

Verdict = Literal["better", "worse", "different", "cannot tell"]  # "different": neither more nor less is better


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score with its interval; `n` examples, `method` says which interval and over what."""

    value: float
    low: float
    high: float
    n: int
    method: str
    higher_is_better: bool | None = True
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """Second system minus first on the same `n` rows, with its interval and what it allows to say of the second."""

    first: float
    second: float
    value: float
    low: float
    high: float
    n: int
    method: str
    verdict: Verdict
    higher_is_better: bool | None = True

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        return self.verdict if self.verdict != "cannot tell" else f"cannot tell with n = {self.n}"


def estimate(
    statistic: Statistic, groups: Sequence[str] = (), *, level: float = LEVEL, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """The score of all examples with its interval. `groups` names each example's document where examples share one."""
    count = _count(statistic)
    value, about = value_of(statistic), statistic.about
    units, over = _units(statistic, groups)
    if about.interval == "wilson" and isinstance(units, Summed) and not over:
        hits, trials = units.rows.sum(axis=0)
        low, high = wilson(float(hits), float(trials), level)
        method = "Wilson"
    else:
        low, high, method = _resampled_interval(units, value, level, seed, resamples)
        method += over
    if low == high == value and value in (about.low, about.high) and math.isfinite(about.high - about.low):
        low, high, method = _all_alike(value, about.low, about.high, len(units), level)
    low, high = max(low, about.low), min(high, about.high)
    return Estimate(value, low, high, count, method, about.higher_is_better, about.signature)


def difference(first: Statistic, second: Statistic, groups: Sequence[str] = (), *, level: float = LEVEL) -> Difference:
    """`second` minus `first`, scored on the same rows in the same order, with a paired interval and a verdict."""
    count = _count(second)
    if len(first) != len(second):
        raise DataError(
            f"two systems were scored on {len(first)} and {len(second)} rows", fix="compare them on the same"
        )
    before, after = value_of(first), value_of(second)
    (one, over), (two, _) = _units(first, groups), _units(second, groups)
    if first.about.interval == "wilson" and isinstance(one, Summed) and isinstance(two, Summed) and not over:
        low, high = paired_shares(one.rows, two.rows, level)
        method = "Bonett-Price"
    else:
        low, high, method = _paired(one, two, after - before, level)
        method += over
    higher = first.about.higher_is_better
    return Difference(before, after, after - before, low, high, count, method, _verdict(low, high, higher), higher)


def wilson(hits: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share (JASA 1927); (0, 1) where nothing was tried."""
    if trials == 0:
        return 0.0, 1.0
    z = NORMAL.inv_cdf(0.5 + level / 2)
    p, weight = hits / trials, z * z / trials
    middle = p + weight / 2
    half = z * math.sqrt(p * (1 - p) / trials + weight / (4 * trials))
    # At both ends the formula gives 0 and 1 but for rounding.
    low = 0.0 if hits == 0 else (middle - half) / (1 + weight)
    return low, 1.0 if hits == trials else (middle + half) / (1 + weight)


def paired_shares(first: Array, second: Array, level: float = LEVEL) -> tuple[float, float]:
    """The interval of second - first share from rows (success, trial) on the same examples: an adjusted Wald interval
    over the pairs that differ, those of McNemar's test (Bonett and Price, British J. of Math. and Stat. Psych. 2012).
    """
    z = NORMAL.inv_cdf(0.5 + level / 2)
    change = second[:, 0] - first[:, 0]
    trials = len(change) + 2
    gained, lost = (float((change > 0).sum()) + 1) / trials, (float((change < 0).sum()) + 1) / trials
    half = z * math.sqrt((gained + lost - (gained - lost) ** 2) / trials)
    return gained - lost - half, gained - lost + half


def _paired(first: Statistic, second: Statistic, value: float, level: float) -> tuple[float, float, str]:
    if len(first) < 2 or not math.isfinite(value):
        return -math.inf, math.inf, NO_SPREAD
    low, high, method = _jackknife(_left_out(second) - _left_out(first), value, level)
    return low, high, f"paired {method}"


def draws(units: int, resamples: int, seed: int) -> Iterator[Array]:
    """Weights [b, units] of bootstrap resamples, `resamples` rows in all: how often each unit was drawn."""
    generator = np.random.Generator(np.random.Philox(key=[seed, units]))
    size = max(1, CHUNK // units)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = generator.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)


def _resampled_interval(
    units: Statistic, value: float, level: float, seed: int, resamples: int
) -> tuple[float, float, str]:
    """The interval of one score by the method that fits it."""
    if len(units) < 2 or not math.isfinite(value):
        return -math.inf, math.inf, NO_SPREAD
    left_out = _left_out(units)
    if units.about.interval == "jackknife":
        return _jackknife(left_out, value, level)
    if units.about.interval == "bootstrap-t" and isinstance(units, Summed):
        return _bootstrap_t(units, level, seed, resamples)
    replicates = np.concatenate([units.resampled(weights) for weights in draws(len(units), resamples, seed)])
    replicates = replicates[np.isfinite(replicates)]
    if len(replicates) < resamples // 2:
        return -math.inf, math.inf, "none (most resamples have no such score)"
    if np.ptp(replicates) <= 1e-12 * max(1.0, abs(value)):
        return value, value, "bootstrap without spread"
    low, high = _bca(replicates, left_out, value, len(units), level)
    return low, high, f"BCa bootstrap, {resamples:,} resamples"


def _bootstrap_t(units: Summed, level: float, seed: int, resamples: int) -> tuple[float, float, str]:
    """The bootstrap-t interval of a quotient of sums (Efron and Tibshirani 1993, section 12.5), mapped to the score."""
    x, y = units.rows[:, 0], units.rows[:, 1]
    columns = np.stack((x, y, x * x, x * y, y * y), axis=1)

    def quotient_and_error(sums: Array) -> tuple[Array, Array]:
        r = sums[:, 0] / sums[:, 1]
        variance = sums[:, 2] - 2 * r * sums[:, 3] + r * r * sums[:, 4]
        return r, np.sqrt(np.maximum(variance, 0.0) * len(x) / (len(x) - 1)) / sums[:, 1]

    (value,), (error,) = quotient_and_error(columns.sum(axis=0)[None])
    drawn = np.concatenate([weights @ columns for weights in draws(len(x), resamples, seed)])
    quotients, errors = quotient_and_error(drawn[drawn[:, 1] > 0])
    least = 1e-9 * max(abs(value), 1e-300)
    if error <= least:
        found = float(units.value(units.rows.sum(axis=0)))
        return found, found, "bootstrap without spread"
    t = (quotients - value)[errors > least] / errors[errors > least]
    up, down = np.quantile(t, [0.5 + level / 2, 0.5 - level / 2])
    ends = units.value(np.array([[value - up * error, 1.0], [value - down * error, 1.0]]))
    return float(ends[0]), float(ends[1]), f"bootstrap-t, {resamples:,} resamples"


def _jackknife(left_out: Array, value: float, level: float) -> tuple[float, float, str]:
    """Student's interval with the jackknife's standard error (Efron and Tibshirani 1993, chapter 11)."""
    count = len(left_out)
    spread = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    if not math.isfinite(spread):
        return -math.inf, math.inf, "none (without some row there is no such score)"
    half = _student(0.5 + level / 2, count - 1) * spread
    return value - half, value + half, "jackknife"


def _left_out(statistic: Statistic) -> Array:
    """Jackknife values; of many units, those of blocks of them, drawn by chance as neighbours may be alike."""
    if len(statistic) <= MOST_LEFT_OUT:
        return statistic.left_out()
    order = np.random.Generator(np.random.Philox(key=[0, len(statistic)])).permutation(len(statistic))
    return statistic.grouped(order % MOST_LEFT_OUT).left_out()


def _bca(replicates: Array, left_out: Array, value: float, units: int, level: float) -> tuple[float, float]:
    """The BCa interval with widened levels from bootstrap replicates and jackknife values."""
    tolerance = 1e-12 * max(1.0, abs(value))
    below = float((replicates < value - tolerance).mean()) + float((np.abs(replicates - value) <= tolerance).mean()) / 2
    edge = 1 / (len(replicates) + 1)
    bias = NORMAL.inv_cdf(min(max(below, edge), 1 - edge))
    influence = np.nanmean(left_out) - left_out[np.isfinite(left_out)]
    spread = float((influence**2).sum())
    acceleration = float((influence**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    wide = _student(0.5 + level / 2, units - 1) * math.sqrt(units / (units - 1))
    levels = []
    for z in (-wide, wide):
        shifted = bias + (bias + z) / max(1e-6, 1 - acceleration * (bias + z))
        levels.append(NORMAL.cdf(shifted))
    low, high = np.quantile(replicates, levels)
    return float(low), float(high)


def _student(probability: float, freedom: int) -> float:
    """Student's quantile, by Cornish and Fisher's expansion (Abramowitz and Stegun 26.7.5); exact for 1 and 2."""
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z, v = NORMAL.inv_cdf(probability), freedom
    terms = (
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4),
    )
    return z + sum(terms)


def _count(statistic: Statistic) -> int:
    if len(statistic) == 0:
        raise DataError(
            "there is nothing to score", why="the metric was given no predictions", fix="give it a row or more"
        )
    return len(statistic)


def _units(statistic: Statistic, groups: Sequence[str]) -> tuple[Statistic, str]:
    """The statistic over its groups, with words for the method; over examples where each is a group of its own."""
    if not groups:
        return statistic, ""
    if len(groups) != len(statistic):
        raise DataError(f"there are {len(groups)} group names for {len(statistic)} examples", fix="give one to each")
    # An example without a name is a group of its own.
    names = [name or f"\0{index}" for index, name in enumerate(groups)]
    numbers: NDArray[np.intp] = np.unique(names, return_inverse=True)[1]
    found = int(numbers.max()) + 1
    return (statistic, "") if found == len(groups) else (statistic.grouped(numbers), f" over {found:,} groups")


def _all_alike(value: float, low: float, high: float, units: int, level: float) -> tuple[float, float, str]:
    """All units at one end of the range: no resample differs, yet others may exist. Wilson's bound of their share."""
    least = wilson(units, units, level)[0]
    method = "Wilson (every example is at the end of the range)"
    if value == high:
        return low + least * (high - low), high, method
    return low, high - least * (high - low), method


def _verdict(low: float, high: float, higher_is_better: bool | None) -> Verdict:
    if low <= 0 <= high:
        return "cannot tell"
    if higher_is_better is None:
        return "different"
    return "better" if (low > 0) == higher_is_better else "worse"
