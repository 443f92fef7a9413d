"""Encoding beside datasets.map, the time to the first step, and flatness in the number of rows. From the repository's root:

python bench/encode/run.py speed --peer-python DIR/bin/python     in turn, on a quiet machine → results/encode.json
python bench/encode/run.py first-step                             `tutelage train` until its first step → results/first-step.json
python bench/encode/run.py flat                                   30 steps of 1,000 and of 100,000 rows → results/flat.json
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from harness.contenders import beside  # noqa: E402

from tutelage.train.manifest import machine, now, versions  # noqa: E402

RESULTS = ROOT / "bench" / "results"
MODEL = Path.home() / ".cache" / "tutelage" / "models" / "smollm2-135m"


def distinct_rows(folder: Path, count: int, file: Path) -> None:
    """`count` different Dolly rows: where they run out, again with a number before the instruction."""
    rows: list[dict[str, str]] = []
    for path in sorted(folder.glob("*.json")):
        rows += json.loads(path.read_text(encoding="utf-8"))
    with open(file, "w", encoding="utf-8") as lines:
        for i in range(count):
            row = {key: rows[i % len(rows)][key] for key in ("instruction", "context", "response")}
            if again := i // len(rows):
                row["instruction"] = f"({again}) {row['instruction']}"
            lines.write(json.dumps(row) + "\n")


def answer(command: list[str], store: Path) -> dict[str, Any]:
    """The JSON document that `command` prints last."""
    print("$", " ".join(command), file=sys.stderr, flush=True)
    environment = {**os.environ, "TUTELAGE_ENCODED": str(store), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True, text=True)
    lines = done.stdout.strip().splitlines()
    begins = max(i for i, line in enumerate(lines) if line.startswith("{"))
    found: dict[str, Any] = json.loads("\n".join(lines[begins:]))
    return found


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least and most of the repetitions."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": values}


def speed(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Ours and theirs in turn."""
    rows = work / "rows.jsonl"
    distinct_rows(options.data, options.rows, rows)
    runs: dict[str, list[dict[str, Any]]] = {"tutelage": [], "datasets.map": []}
    for _ in range(options.repetitions):
        shutil.rmtree(work / "store", ignore_errors=True)
        runs["tutelage"].append(answer([sys.executable, str(HERE / "ours.py"), str(MODEL), str(rows)], work / "store"))
        if options.peer_python:
            command = [options.peer_python, str(HERE / "theirs.py"), str(MODEL), str(rows)]
            runs["datasets.map"].append(answer(command, work / "store"))
    rates = {name: spread([run["rows_per_second"] for run in each]) for name, each in runs.items() if each}
    ratio = rates["tutelage"]["median"] / rates["datasets.map"]["median"] if len(rates) == 2 else None
    return {"rows": options.rows, "rows_per_second": rates, "ratio": ratio, "runs": runs}


def first_step(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Seconds from starting the command to the event of its first step, the baseline validation taken off."""
    rows, seconds = work / "rows.jsonl", []
    distinct_rows(options.data, 1000, rows)
    recipe = work / "recipe.yaml"
    recipe.write_text(
        f"model: {MODEL}\ndata: {{train: [{rows}], validation: 0.1}}\nmethod: {{kind: lora, rank: 16, alpha: 32}}\n"
        "optim: {learning_rate: 2.0e-4, epochs: 1, batch_size: 8}\nmax_tokens: 512\n"
    )
    for repetition in range(options.repetitions + 1):  # the first one warms the caches
        seconds.append(time_to_first_step(recipe, work / f"run-{repetition}", work / "store"))
    return {"rows": 1000, "cold": seconds[0], "seconds": spread(seconds[1:])}


def time_to_first_step(recipe: Path, out: Path, store: Path) -> float:
    """Start `tutelage train`, wait for its first step, stop it."""
    command = [sys.executable, "-m", "tutelage", "train", str(recipe), "--out", str(out)]
    print("$", " ".join(command), file=sys.stderr, flush=True)
    environment = {**os.environ, "TUTELAGE_ENCODED": str(store)}
    start = time.monotonic()
    with open(out.with_name(out.name + ".log"), "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    validation = 0.0
    try:
        while process.poll() is None:
            events = out / "events.jsonl"
            for line in events.read_text().splitlines() if events.is_file() else ():
                event = json.loads(line)
                if event["event"] == "validated" and event["step"] == 0:
                    validation = event["seconds"]
                if event["event"] == "step":
                    return time.monotonic() - start - validation
            time.sleep(0.02)
        raise SystemExit(f"this ended with {process.returncode}; see {log.name}")
    finally:
        process.kill()
        process.wait()


def flat(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Tokens/s of the steps and peak memory of the same number of steps on few rows and on many."""
    found = {}
    for count in options.counts:
        rows = work / f"rows-{count}.jsonl"
        distinct_rows(options.data, count, rows)
        command = [
            sys.executable, "-m", "tutelage", "train", str(HERE / "flat.yaml"), "--json", "--set", f"model={MODEL}",
            "--set", f"data.train={rows}",
        ]  # fmt: skip
        runs = []
        for repetition in range(options.repetitions):  # from the second one on, rows come from the store
            out = str(work / f"out-{count}-{repetition}")
            runs.append(answer([*command, "--out", out], work / "store"))
        names = ("tokens_per_second", "peak_rss_mib")
        found[str(count)] = {name: spread([run[name] for run in runs]) for name in names}
    least, most = (found[str(count)] for count in (min(options.counts), max(options.counts)))
    return {"runs": found, **{name: most[name]["median"] / least[name]["median"] for name in names}}


def main() -> None:
    """Measure, and write the result with the machine and versions beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "first-step", "flat"])
    parser.add_argument("--data", type=Path, default=beside("shared") / "data" / "dolly")
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--counts", type=int, nargs=2, default=[1000, 100000])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--peer-python", help="python of an environment with bench/encode/requirements.txt")
    options = parser.parse_args()
    work = {"speed": speed, "first-step": first_step, "flat": flat}[options.what]
    with tempfile.TemporaryDirectory() as folder:
        result = {"date": now(), "machine": machine(), "versions": versions(), **work(options, Path(folder))}
    text = json.dumps(result, indent=1)
    name = {"speed": "encode", "first-step": "first-step", "flat": "flat"}[options.what]
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


main()
