"""The benchmarks' own arithmetic: what they count, keep and judge."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(autouse=True)
def _bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def test_rows_are_spread_over_all_lengths(tmp_path: Path) -> None:
    from harness.rows import spread_rows

    source = tmp_path / "rows.jsonl"
    source.write_text("".join(f'"{"x" * length}"\n' for length in range(100)))
    chosen = [len(json.loads(line)) for line in spread_rows(source, 2, tmp_path).read_text().splitlines()]
    assert len(chosen) == 16
    assert (min(chosen), max(chosen)) == (0, 99)
    assert all(5 <= b - a <= 8 for a, b in pairwise(chosen))


def test_memory_of_a_child_counts_and_a_time_limit_ends_it(tmp_path: Path) -> None:
    from harness.memory import run_measured

    hungry = "import time; held = bytearray(b'x') * (80 << 20); time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hungry!r}])"
    measured = run_measured([sys.executable, "-c", parent], tmp_path / "log", {})
    assert measured.returncode == 0
    assert 80 < measured.peak_mib < 160
    stopped = run_measured([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", {}, timeout=0.5)
    assert stopped.returncode is None
    assert stopped.seconds < 30


def entry(name: str, rate: float, peak: float) -> dict[str, Any]:
    """What speed/run.py stores of one run."""
    machine = {"cpu": "x", "capability": "y", "cores": 2, "memory_bytes": 2**34, "platform": "z"}
    return {
        "name": name, "data": "dolly", "threads": 2, "steps": 8, "tokens_per_second": rate, "peak_mib": peak, "commit": "c",
        "first_step_seconds": 3.0, "machine": machine, "at": "2026", "load": 0.1, "versions": {"torch": "2"},
    }  # fmt: skip


def test_the_table_judges_by_the_fastest_peer_and_shows_failures() -> None:
    from harness.plot import speed_svg
    from harness.tables import speed_section

    failed = {**entry("llamafactory", 0, 0), "failed": "ended with 1: no"}
    for key in ("tokens_per_second", "first_step_seconds"):
        del failed[key]
    runs = [entry("tutelage", 650, 1000), entry("tutelage", 700, 1100), entry("tutelage", 600, 1000),
            entry("trl-autocast", 100, 8000), entry("trl-bf16-8x1", 90, 900), entry("litgpt", 130, 6000),
            entry("limit", 1000, 1), failed]  # fmt: skip
    result = {"comparison": "lora", "warm_up_steps": 2, "runs": runs}
    text = "\n".join(speed_section(result))
    assert "6.50 times TRL's fastest (`trl-autocast`) (wanted 6.5: reached), in 12% of its memory" in text
    assert "5.00 times the fastest peer (`litgpt`) (wanted 5.5: NOT reached)" in text
    assert "65% of the limit (wanted 60%: reached)" in text
    assert "| 650 (600–700) |" in text
    assert "ended with 1: no" in text
    assert "llamafactory" not in speed_svg({"lora": result})


def test_the_rate_is_of_the_steps_behind_the_warm_up(tmp_path: Path) -> None:
    from speed.run import figures

    peer = {"ends": [10.0, 12.0, 13.0, 15.0], "tokens": [5, 5, 30, 60], "versions": {}, "loss": [], "padded_tokens": []}
    (tmp_path / "figures.json").write_text(json.dumps(peer))
    found = figures("litgpt", tmp_path, started=4.0)
    assert found["tokens_per_second"] == 90 / 3
    assert found["first_step_seconds"] == 6.0
    assert found["tokens_total"] == 100


def test_attention_is_interpolated_between_measured_lengths() -> None:
    from speed.limit import interpolated

    known = {64: 1.0, 128: 3.0}
    assert [interpolated(at, known) for at in (10, 64, 96, 128, 500)] == [1.0, 1.0, 2.0, 3.0, 3.0]
