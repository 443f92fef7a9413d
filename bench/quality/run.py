"""tutelage beside TRL's SFTTrainer: same model, data and settings. Start it from the repository's root.

python bench/quality/run.py quality --trl-python DIR/bin/python    all seeds, scored → results/quality.json
python bench/quality/run.py speed --trl-python DIR/bin/python      in turn, on a quiet machine → results/speed.json
python bench/quality/run.py table                                  results/*.json → RESULTS.md
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from memory import Measured, run_measured
from table import write_table

from tutelage.train.manifest import machine, now

HERE = Path(__file__).resolve().parent
BENCH, ROOT = HERE.parent, HERE.parents[1]
RESULTS = BENCH / "results"
BATCH, WARM_UP_STEPS, RESAMPLES = 8, 2, 5000
# What is timed. Rows per forward pass change nothing in TRL's results (it divides by the targets of the whole step).
CONTENDERS: dict[str, list[str]] = {
    "tutelage": [],
    "trl-fp32": ["--precision", "fp32", "--micro-batch", "8"],
    "trl-fp32-2x4": ["--precision", "fp32", "--micro-batch", "4"],
    "trl-fp32-4x2": ["--precision", "fp32", "--micro-batch", "2"],
    "trl-fp32-8x1": ["--precision", "fp32", "--micro-batch", "1"],
    "trl-fp32-8x1-checkpointing": ["--precision", "fp32", "--micro-batch", "1", "--checkpointing"],
    "trl-fp32-8x1-compile": ["--precision", "fp32", "--micro-batch", "1", "--compile"],
    "trl-bf16": ["--precision", "bf16", "--micro-batch", "8"],
    "trl-bf16-8x1": ["--precision", "bf16", "--micro-batch", "1"],
}


def environment(threads: int) -> dict[str, str]:
    """The environment of every measured process, ours and the peer's alike."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}


def ours(options: argparse.Namespace, rows: Path, seed: int, out: Path) -> list[str]:
    """The command that trains with tutelage."""
    settings = {"model": options.model, "data.train": rows, "seed": seed, "threads": options.threads}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "tutelage", "train", str(HERE / "recipe.yaml"), *sets, "--out", str(out), "--json"]


def theirs(options: argparse.Namespace, rows: Path, seed: int, out: Path, flags: list[str]) -> list[str]:
    """The command that trains with TRL."""
    given = ["--model", options.model, "--train", str(rows), "--out", str(out), "--seed", str(seed), *flags]
    return [options.trl_python, str(HERE / "train_trl.py"), *given]


def run(command: list[str], out: Path, options: argparse.Namespace) -> Measured:
    """Run a training command, measured; its output is in `out`.log."""
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.with_name(out.name + ".log")
    print("$", " ".join(command), file=sys.stderr, flush=True)
    nice = ["nice", "-n", str(options.nice)] if options.nice else []
    measured = run_measured([*nice, *command], log, environment(options.threads))
    if measured.returncode:
        raise SystemExit(f"this failed with {measured.returncode}; see {log}")
    return measured


def answer(command: list[str], threads: int) -> Any:
    """The JSON document that `command` prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment(threads), check=True, text=True)
    return json.loads(done.stdout)


def write(name: str, value: dict[str, Any]) -> None:
    """Write results/`name`."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def versions(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """What runs in both environments."""
    names = ("trl", "peft", "torch", "transformers", "accelerate", "datasets")
    code = f"import json; from importlib.metadata import version; print(json.dumps({{n: version(n) for n in {names}}}))"
    mine = {name: version(name) for name in ("tutelage", "torch", "transformers")}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return {"ours": {**mine, "commit": commit.stdout.strip()}, "theirs": answer([options.trl_python, "-c", code], 1)}


# Quality


def quality(options: argparse.Namespace) -> None:
    """Train every seed with both (what is finished is kept), score all adapters with one scorer, compare."""
    train, held_out = options.data / "dolly_train.jsonl", options.data / "dolly_heldout.jsonl"
    adapters: dict[str, dict[int, Path]] = {"tutelage": {}, "trl": {}}
    for seed in options.seeds:
        peer = options.work / f"trl-fp32-{seed}"
        if not (peer / "figures.json").is_file():
            run(theirs(options, train, seed, peer, CONTENDERS["trl-fp32-8x1"]), peer, options)
        adapters["trl"][seed] = peer
    for seed in options.seeds:
        folder = options.work / f"tutelage-{seed}"
        run(ours(options, train, seed, folder), folder, options)  # says so at once when it is finished
        adapters["tutelage"][seed] = folder / "model"
    every = [str(path) for paths in adapters.values() for path in paths.values()]
    score = [sys.executable, str(HERE / "score.py"), "--model", options.model, "--data", str(held_out)]
    scored = answer([*score, *every], options.threads)
    plain = answer([*score, "--plain", every[0], every[-1]], options.threads)
    (options.work / "scores.json").write_text(json.dumps(scored), encoding="utf-8")
    result = {
        "kind": "quality", "at": now(), "machine": machine(), "versions": versions(options),
        "plan": json.loads((options.work / f"tutelage-{options.seeds[0]}" / "manifest.json").read_text())["plan"],
        "tokens": same_tokens(options, train), "held_out_rows": scored["rows"], "held_out_targets": scored["targets"],
        "scorers_differ_by": differ(scored, plain), **compared(scored, adapters, options.seeds),
    }  # fmt: skip
    write("quality.json", result)


def same_tokens(options: argparse.Namespace, train: Path) -> dict[str, int]:
    """How many training rows have the same ids and targets in both tools."""
    dump = options.work / "trl-tokens"
    run(theirs(options, train, 0, dump, ["--dump-tokens", str(dump.with_suffix(".json"))]), dump, options)
    command = [sys.executable, str(HERE / "same_tokens.py"), "--model", options.model, "--train", str(train)]
    counts: dict[str, int] = answer([*command, "--trl-tokens", str(dump.with_suffix(".json"))], 1)
    return counts


def differ(scored: dict[str, Any], plain: dict[str, Any]) -> float:
    """The largest difference in loss between this scorer and peft with transformers alone."""
    known = {score["adapter"]: score["loss"] for score in scored["scores"]}
    return max(abs(known[score["adapter"]] - score["loss"]) for score in plain["scores"])


def compared(scored: dict[str, Any], adapters: dict[str, dict[int, Path]], seeds: list[int]) -> dict[str, Any]:
    """Gains in nats per target token, per seed and on average, and an interval of the ratio over held-out rows."""
    sums = {score["adapter"]: np.array(score["row_losses"]) for score in scored["scores"]}
    targets = np.array(scored["row_targets"])
    gains = {tool: np.stack([sums["base"] - sums[str(paths[s])] for s in seeds]) for tool, paths in adapters.items()}
    per_seed = [
        {"seed": seed, **{tool: float(gain[i].sum() / targets.sum()) for tool, gain in gains.items()}}
        for i, seed in enumerate(seeds)
    ]
    mean = {tool: float(gain.mean(0).sum() / targets.sum()) for tool, gain in gains.items()}
    draw = np.random.default_rng(0).integers(len(targets), size=(RESAMPLES, len(targets)))
    ratios = gains["tutelage"].mean(0)[draw].sum(1) / gains["trl"].mean(0)[draw].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {
        "base_loss": float(sums["base"].sum() / targets.sum()), "gains": per_seed, "mean_gain": mean,
        "ratio": mean["tutelage"] / mean["trl"], "ratio_low": float(low), "ratio_high": float(high),
    }  # fmt: skip


# Speed


def speed(options: argparse.Namespace) -> None:
    """Ours and TRL in turn on the same rows; repetitions interleaved, so that a slow minute hits all alike."""
    rows = speed_rows(options)
    runs: list[dict[str, Any]] = []
    for repetition in range(options.repeat):
        for name in options.contenders:
            if name.startswith("trl-bf16") and repetition >= options.bf16_repeat:
                continue
            out = options.work / "speed" / f"{name}-{repetition}"
            shutil.rmtree(out, ignore_errors=True)
            command = (
                ours(options, rows, 0, out) if name == "tutelage" else theirs(options, rows, 0, out, CONTENDERS[name])
            )
            if name.startswith("trl-bf16"):
                command += ["--max-steps", str(options.bf16_steps)]
            measured = run(command, out, options)
            runs.append(
                {"name": name, "repetition": repetition, **figures(name, out), "peak_mib": round(measured.peak_mib, 1)}
            )
            print(
                f"{name} {repetition}: {runs[-1]['tokens_per_second']:.1f} tokens/s, {measured.peak_mib:.0f} MiB",
                file=sys.stderr,
            )
    result = {
        "kind": "speed", "at": now(), "machine": machine(), "versions": versions(options), "threads": options.threads,
        "steps": options.steps, "warm_up_steps": WARM_UP_STEPS, "repeat": options.repeat, "load": os.getloadavg(),
        "contenders": {name: summed([r for r in runs if r["name"] == name]) for name in options.contenders}, "runs": runs,
    }  # fmt: skip
    write("speed.json" if options.steps > WARM_UP_STEPS else "speed-smoke.json", result)


def speed_rows(options: argparse.Namespace) -> Path:
    """A file of `steps` batches, spread evenly over all lengths from the shortest row to the longest."""
    lines = (options.data / "dolly_train.jsonl").read_text(encoding="utf-8").splitlines()
    order = sorted(range(len(lines)), key=lambda i: len(lines[i]))
    count = min(options.steps * BATCH, len(lines))
    chosen = sorted({order[round(i * (len(order) - 1) / (count - 1))] for i in range(count)})
    path = options.work / f"speed-rows-{count}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines[i] + "\n" for i in chosen), encoding="utf-8")
    return path


def figures(name: str, out: Path) -> dict[str, Any]:
    """Seconds and useful tokens of each step, without loading, and their rate after the warm-up."""
    if name == "tutelage":
        events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = [event for event in events if event["event"] == "step"]
        seconds, tokens = [step["seconds"] for step in steps], [step["tokens"] for step in steps]
    else:
        peer = json.loads((out / "figures.json").read_text(encoding="utf-8"))
        seconds, tokens = peer["seconds"], peer["useful_tokens"]
    skip = WARM_UP_STEPS if len(seconds) > WARM_UP_STEPS else 0  # a smoke test of one or two steps
    rate = sum(tokens[skip:]) / sum(seconds[skip:])
    return {"seconds": [round(s, 4) for s in seconds], "tokens": tokens, "tokens_per_second": rate}


def summed(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, lowest and highest of the repetitions."""
    result: dict[str, Any] = {"runs": len(runs), "steps": len(runs[0]["seconds"])}
    for key in ("tokens_per_second", "peak_mib"):
        values = [run[key] for run in runs]
        result[key] = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return result


# Command line


def parse() -> argparse.Namespace:
    """The flags, with the model's folder resolved through `tutelage models get`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("quality", "speed", "table"))
    parser.add_argument("--model", help="a model folder; default: the catalogue's smollm2-135m")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "bench")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "bench", help="where adapters and logs go")
    parser.add_argument("--trl-python", help="python of the environment of requirements-trl.txt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nice", type=int, default=0, help="for quality runs on a machine that others use")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=12, help="speed: steps per run; the first two are not counted")
    parser.add_argument("--repeat", type=int, default=3, help="speed: runs of each contender")
    parser.add_argument(
        "--bf16-steps", type=int, default=4, help="speed: steps of TRL in bf16, which is very slow without AMX"
    )
    parser.add_argument("--bf16-repeat", type=int, default=1)
    main_ones = ["tutelage", "trl-fp32", "trl-fp32-8x1", "trl-bf16"]
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=main_ones, metavar="NAME")
    options = parser.parse_args()
    if options.command != "table":
        if not options.trl_python:
            parser.error("--trl-python is needed: the python of TRL's own environment")
        get = [sys.executable, "-m", "tutelage", "models", "get", "smollm2-135m", "--json"]
        options.model = options.model or answer(get, options.threads)["path"]
    return options


def main() -> None:
    """Run one command."""
    options = parse()
    if options.command == "table":
        write_table(RESULTS, BENCH / "RESULTS.md")
    else:
        {"quality": quality, "speed": speed}[options.command](options)


if __name__ == "__main__":
    main()
