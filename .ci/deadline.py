"""A pytest plugin for .ci/run: tests that would start after $TUTELAGE_TESTS_UNTIL (seconds since 1970) are skipped."""

import os
import time

import pytest

UNTIL = float(os.environ["TUTELAGE_TESTS_UNTIL"])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip `item`, visibly, where its time has passed."""
    if time.time() > UNTIL:
        pytest.skip("no time is left for it in this run")
