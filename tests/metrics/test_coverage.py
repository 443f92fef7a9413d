"""A small version of bench/statistics/coverage.py: intervals cover the truth about as often as they say."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "statistics" / "coverage.py"
TRIALS, ROWS = 150, 100


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_bench", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_intervals_cover_and_equal_systems_are_rarely_called_different(coverage: ModuleType) -> None:
    # 150 trials of 95 % lie between 89 and 99 % with 999 in 1,000; the band of 93 to 97 % needs the script's 1,000.
    for family in coverage.families(1, size=3000):
        held = coverage.coverage(family, ROWS, TRIALS, 1, 400)
        assert held >= 0.88, (family.name, held)
        wrong = coverage.called_different(family, ROWS, TRIALS, 1)
        assert wrong <= 0.12, (family.name, wrong)


def test_the_measurement_can_fail(coverage: ModuleType) -> None:
    """Rows of a document taken for independent ones give intervals that are too narrow, and the script sees it."""
    family = next(one for one in coverage.families(1, size=3000) if one.per_group > 1)
    blind = [coverage.drawn(coverage.np.random.default_rng(trial), family, ROWS)[0] for trial in range(TRIALS)]
    truth = coverage.value_of(family.first)
    found = [coverage.estimate(coverage.picked(family.first, index)) for index in blind]
    assert sum(one.low <= truth <= one.high for one in found) / TRIALS < 0.9
