"""Time and memory of `data check` and `data prepare` on many Dolly-like rows, and how both grow.

    python bench/data/scale.py --rows 100000 400000 --processes 2 --work /tmp/scale

Rows are made here: an instruction, sometimes a context, an answer, a tenth of them repeats or near-repeats, a few faults.
Memory is the sum of anonymous resident memory over the command and its processes, sampled ten times a second.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def write_rows(path: Path, count: int) -> None:
    draw = random.Random(5)
    vocabulary = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "ru", "so", "ta", "vi") for b in range(5000)]
    weights = np.cumsum(1 / np.arange(10, 10 + len(vocabulary))).tolist()
    recent: list[dict[str, str]] = []

    def text(low: int, high: int) -> str:
        chosen = draw.choices(
            vocabulary, cum_weights=weights, k=int(draw.triangular(low, high, low + (high - low) // 5))
        )
        return " ".join(chosen).capitalize() + "."

    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            kind = draw.random()
            if recent and kind < 0.05:
                row = dict(draw.choice(recent))
            elif recent and kind < 0.1:
                row = dict(draw.choice(recent))
                row["response"] += " " + draw.choice(vocabulary) + "."
            else:
                row = {
                    "instruction": text(5, 25), "context": text(40, 160) if draw.random() < 0.3 else "",
                    "response": text(10, 160), "category": draw.choice(("open_qa", "closed_qa", "summarization")),
                }  # fmt: skip
                if kind < 0.12:
                    row["response"] += "  \u00e2\u20ac\u2122 &amp; jane@example.com \r\n"
                recent = [*recent[-500:], row]
            file.write(json.dumps({**row, "id": number}) + "\n")


def tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def anonymous(pid: int) -> int:
    """Anonymous resident KiB of a process and its children; pages shared by a fork count once (as Pss)."""
    total = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
        except (OSError, ProcessLookupError):
            continue
    return total


def measured(command: list[str]) -> dict[str, float]:
    started, peak = time.perf_counter(), 0
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while run.poll() is None:
        with contextlib.suppress(OSError):
            peak = max(peak, anonymous(run.pid))
        time.sleep(0.1)
    seconds = time.perf_counter() - started
    if run.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {run.returncode}")
    return {"seconds": round(seconds, 1), "peak_mib": round(peak / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    tutelage = [sys.executable, "-m", "tutelage", "data"]
    for rows in given.rows:
        data, recipe = given.work / f"rows-{rows}.jsonl", given.work / f"recipe-{rows}.yaml"
        if not data.is_file():
            write_rows(data, rows)
        recipe.write_text(json.dumps({"data": {"train": [str(data)], "validation": 0.05, "test": 0.05}}))
        out, processes = str(given.work / f"out-{rows}"), ["--processes", str(given.processes)]
        for name, command in (
            ("check", [*tutelage, "check", str(data), "--json", *processes]),
            (
                "prepare (clean, deduplicate, split, check again)",
                [*tutelage, "prepare", str(recipe), "--out", out, *processes],
            ),
        ):
            print(json.dumps({"rows": rows, "command": name, **measured(command)}), flush=True)


if __name__ == "__main__":
    main()
