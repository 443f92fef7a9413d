"""`python bench/tasks/run.py banking77 --data ../shared/data --peer /work/peers/trainer/bin/python`: ours and theirs.

Both sides train the same model on the same rows with the same hyperparameters, for each seed; one scorer reads both saved
models. Rows/s are those of training alone; peak memory is the high-water mark of anonymous resident memory, sampled. With
`--keep` a comparison that was stopped goes on: what is finished in `--work` is not trained again.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))
from bench.harness.memory import run_measured  # noqa: E402
from bench.tasks.score import difference  # noqa: E402
from bench.tasks.sets import DATA, SETS, Set  # noqa: E402
from tutelage.models.fetch import fetch  # noqa: E402
from tutelage.models.ref import parse_ref  # noqa: E402

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def measured(command: list[str], log: Path) -> float:
    """Run to its end; the peak in MiB."""
    log.parent.mkdir(parents=True, exist_ok=True)
    result = run_measured(command, log, ENVIRONMENT)
    if result.returncode:
        sys.exit(f"{' '.join(command)[:200]} ended with {result.returncode}:\n{log.read_text()[-2000:]}")
    return float(result.peak_mib)


def recipe_of(one: Set, seed: int, out: Path, steps: int | None, precision: str) -> dict[str, Any]:
    return {
        "model": one.model, "task": one.task, "data": {"train": [str(one.train)]}, "method": one.method, "seed": seed,
        "precision": precision,
        "optim": {"learning_rate": one.rate, "epochs": one.epochs, "batch_size": one.batch, "schedule": "linear",
                  "warmup": 0.0, "steps": steps, "dropout": one.dropout, "attention_dropout": one.dropout},
        "max_tokens": one.max_tokens, "over_length": "truncate", "out": str(out),
    }  # fmt: skip


def ours(one: Set, seed: int, out: Path, steps: int | None, precision: str = "auto") -> dict[str, Any]:
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".yaml")
    path.write_text(json.dumps(recipe_of(one, seed, out, steps, precision)), encoding="utf-8")  # JSON is YAML
    peak = measured([sys.executable, "-m", "tutelage", "train", str(path)], out.with_suffix(".log"))
    steps_made = steps_of(out)
    seconds = sum(event["seconds"] for event in steps_made)
    rows = len(one.train.read_text(encoding="utf-8").splitlines()) * steps_made[-1]["epoch"]
    return {"seconds": seconds, "rows_per_second": rows / seconds, "peak_mib": peak, "model": str(out)}


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The events of a run's steps."""
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def theirs(
    one: Set, seed: int, out: Path, peer: str, precision: str, steps: int | None, *more: str
) -> dict[str, Any]:  # fmt: skip
    model = fetch(parse_ref(one.model), say=lambda text: None).path
    command = [peer, str(HERE / "train_trainer.py"), "--model", str(model), "--train", str(one.train), "--kind",
               one.task["kind"], "--out", str(out), "--precision", precision, "--epochs", str(one.epochs), "--rate",
               str(one.rate), "--batch", str(one.batch), "--seed", str(seed), "--length", str(one.max_tokens),
               "--steps", str(steps or -1), *more]  # fmt: skip
    peak = measured(command, out.with_suffix(".log"))
    return {**json.loads((out / "times.json").read_text()), "peak_mib": peak, "model": str(out / "model")}


def scored(one: Set, made: dict[str, Any], out: Path) -> np.ndarray:
    measured([sys.executable, str(HERE / "score.py"), "--model", made["model"], "--test", str(one.test), "--task",
              json.dumps(one.task), "--length", str(one.max_tokens), "--out", str(out)], out.with_suffix(".log"))  # fmt: skip
    values: np.ndarray = np.load(out)
    made["score"] = json.loads(out.with_suffix(".log").read_text().splitlines()[-1])["score"]
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+", choices=["banking77", "wnut17", "xquad"])
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--work", default="/tmp/bench_tasks")
    parser.add_argument("--peer", default="/work/peers/trainer/bin/python")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"], help="of the Trainer; ours measures")
    parser.add_argument("--dropout", type=float, default=0.0, help="ours; the Trainer has the model's own, 0.1")
    parser.add_argument("--plain", action="store_true", help="the Trainer without its dropout")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="take over what is finished in --work")
    parser.add_argument("--rows", type=int, help="at most this many rows: for trying the script out")
    parser.add_argument("--steps", type=int, help="stop after this many steps: for trying the script out")
    given = parser.parse_args()
    for chosen in given.sets:
        name = chosen + "_dropout" * bool(given.dropout) + "_plain" * given.plain
        more = ["--plain"] * given.plain
        work = Path(given.work) / name
        one = replace(SETS[chosen](Path(given.data), work, given.rows), dropout=given.dropout)
        runs: dict[str, list[dict[str, Any]]] = {"tutelage": [], "trainer": []}
        values: dict[str, list[np.ndarray]] = {"tutelage": [], "trainer": []}
        for seed in range(given.seeds):
            for side in runs:
                told, scores = work / f"{side}-{seed}.json", work / f"{side}-{seed}.npy"
                if given.keep and told.is_file():
                    made, found = json.loads(told.read_text()), np.load(scores)
                else:
                    if side == "tutelage":
                        made = ours(one, seed, work / f"ours-{seed}", given.steps)
                    else:
                        made = theirs(
                            one, seed, work / f"theirs-{seed}", given.peer, given.precision, given.steps, *more
                        )
                    found = scored(one, made, scores)
                    told.write_text(json.dumps(made))
                values[side].append(found)
                runs[side].append(made)
                shown = {k: round(v, 2) for k, v in made.items() if isinstance(v, float)}
                print(name, side, "seed", seed, shown, flush=True)
        # the fastest seed of each side: what else runs on the machine can only slow one down
        rate = {side: max(run["rows_per_second"] for run in found) for side, found in runs.items()}
        peak = {side: max(run["peak_mib"] for run in found) for side, found in runs.items()}
        result = {"difference": difference(values["tutelage"], values["trainer"]), "rows_per_second": rate,
                  "speed": rate["tutelage"] / rate["trainer"], "peak_mib": peak,
                  "memory": peak["tutelage"] / peak["trainer"], "precision": given.precision, "runs": runs}  # fmt: skip
        (HERE.parent / "results").mkdir(exist_ok=True)
        if not given.rows and not given.steps:
            path = HERE.parent / "results" / f"tasks_{name}.json"
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(
            json.dumps({key: result[key] for key in ("difference", "rows_per_second", "speed", "peak_mib", "memory")})
        )


if __name__ == "__main__":
    main()
