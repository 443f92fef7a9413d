"""Results as JSON in bench/results: written at once after every run, and merged with what is there."""

import json
import os
import statistics
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from harness.contenders import BENCH, ROOT
from tutelage.train.manifest import machine, now

RESULTS = BENCH / "results"


def load(name: str) -> dict[str, Any] | None:
    """results/`name`, if it is there."""
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(name: str, value: dict[str, Any]) -> None:
    """Write results/`name`, whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    temporary = RESULTS / f".{name}.tmp"
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    temporary.replace(RESULTS / name)


def circumstances() -> dict[str, Any]:
    """When, on what machine, how loaded it was, and which commit of ours."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return {"at": now(), "machine": machine(), "load": round(os.getloadavg()[0], 2), "commit": commit.stdout.strip()}


def our_versions() -> dict[str, str]:
    """What ours runs with."""
    return {name: version(name) for name in ("tutelage", "torch", "transformers")}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    listed = sorted(values)
    return {"median": statistics.median(listed), "low": listed[0], "high": listed[-1]}
