"""Memory that the allocator keeps between blocks in use goes back to the system, but only above what was estimated."""

import subprocess
import sys

import pytest

from tutelage.train.memory import give_back

# In a process of its own: blocks of 100 KiB come from the heap; every second one is freed, and one at its end stays.
SCRIPT = """
import torch
from tutelage.train.memory import anonymous_mib, give_back
blocks = [torch.ones(25_000) for _ in range(3000)]
del blocks[:-1:2]
before = anonymous_mib()
give_back(before + 50)
same = anonymous_mib()
give_back(before - 50)
print(before, same, anonymous_mib(), float(sum(block.sum() for block in blocks)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_only_above_the_estimate_and_without_touching_what_is_in_use() -> None:
    answer = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, same, after, total = map(float, answer.stdout.split())
    assert abs(same - before) < 5
    assert after < before - 50
    assert total == 25_000 * 1500


def test_where_there_is_nothing_to_give_back_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    give_back(0.0)
