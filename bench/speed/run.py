"""Useful tokens per second, peak memory and time to first step: ours and each peer in turn, in the same run.

python bench/speed/run.py lora              every contender, 3 rounds → results/speed-lora.json
python bench/speed/run.py full              the same for full fine-tuning
python bench/speed/run.py qlora             the same on a base in 4 bits; TRL with PEFT and bitsandbytes
python bench/speed/run.py first             time to the first optimiser step on 1,000 rows → results/speed-first.json

Each run is a process of its own. Results are written after every run and merged with those that are there, so a round
may be stopped, and contenders may be measured one at a time (--contenders). --fresh forgets what is there of them.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCH))

from harness import results  # noqa: E402
from harness.contenders import CONTENDERS, beside, command, default_model, fresh, run  # noqa: E402
from harness.rows import first_rows, spread_rows  # noqa: E402

WARM_UP_STEPS = 2
FIRST_ROWS = 1000
MAIN = {
    "lora": [
        "tutelage", "limit", "trl-autocast", "trl-bf16", "trl-autocast-8x1", "trl-bf16-8x1", "trl-padding-free", "litgpt",
        "litgpt-8x1", "llamafactory", "llamafactory-8x1",
    ],
    "full": ["tutelage", "limit", "trl-autocast", "trl-bf16", "trl-autocast-8x1", "trl-bf16-8x1", "trl-padding-free",
        "litgpt", "litgpt-8x1", "llamafactory", "llamafactory-8x1"],
    "qlora": ["tutelage", "tutelage-int4", "trl-autocast", "trl-bf16", "trl-autocast-8x1", "trl-bf16-8x1", "trl-padding-free"],
    "first": ["tutelage", "trl-autocast", "litgpt", "llamafactory"],
}  # fmt: skip


def measure(options: argparse.Namespace) -> None:
    """Every contender in turn, round after round, so that a slow minute hits all alike."""
    for repetition in range(options.repeat):
        for data in options.data:
            for name in options.contenders:
                entry = one_run(options, name, data, repetition)
                keep(options, entry, forget=options.fresh and repetition == 0)
                print(f"{name} {data} {repetition}: {said(entry)}", file=sys.stderr, flush=True)


def one_run(options: argparse.Namespace, name: str, data: str, repetition: int) -> dict[str, Any]:
    """Run one contender once, and what came of it."""
    method = "lora" if options.comparison == "first" else options.comparison
    rows, max_steps = rows_of(options, data)
    out = fresh(options.work / f"speed-{options.comparison}" / f"{name}-{data}")
    arguments = command(
        name, method=method, model=options.model, rows=rows, out=out, threads=options.threads, peers=options.peers,
        max_steps=max_steps,
    )  # fmt: skip
    known = {
        "name": name, "data": data, "repetition": repetition, "threads": options.threads, **results.circumstances(),
        "command": [Path(arguments[0]).name, *(str(part) for part in arguments[1:])],
    }  # fmt: skip
    ended = run(arguments, out, options.threads, options.timeout)
    known["peak_mib"] = round(ended.measured.peak_mib, 1)
    if ended.measured.returncode != 0:
        code = ended.measured.returncode
        why = f"stopped after {options.timeout:.0f} s" if code is None else f"ended with {code}"
        return {**known, "failed": f"{why}: {last_line(ended.log)}"}
    return {**known, **figures(name, out, ended.started)}


def rows_of(options: argparse.Namespace, data: str) -> tuple[Path, int | None]:
    """The file of rows, and how many steps to run (none: one epoch)."""
    if options.comparison == "first":
        sources = [options.rows / f"{each}_train.jsonl" for each in ("dolly", "alpaca")]
        return first_rows(sources, FIRST_ROWS, options.work), 1
    return spread_rows(options.rows / f"{data}_train.jsonl", options.steps, options.work), None


def last_line(log: Path) -> str:
    """The last line that a failed command printed."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def figures(name: str, out: Path, started: float) -> dict[str, Any]:
    """Useful tokens per second between the ends of the second and the last step, and the time to the first one's end."""
    if name == "limit":
        return dict(json.loads((out / "figures.json").read_text(encoding="utf-8")))
    if CONTENDERS[name].tool == "tutelage":
        events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = [event for event in events if event["event"] == "step"]
        ends, tokens = [step["time"] for step in steps], [step["tokens"] for step in steps]
        more: dict[str, Any] = {"versions": results.our_versions(), "losses": [step["loss"] for step in steps]}
        more["plan"] = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["plan"]
    else:
        peer = json.loads((out / "figures.json").read_text(encoding="utf-8"))
        ends, tokens = peer["ends"], peer["tokens"]
        more = {"versions": peer["versions"], "losses": peer["loss"], "padded_tokens": peer["padded_tokens"]}
    result = {
        "first_step_seconds": round(ends[0] - started, 2), "steps": len(ends), "tokens": tokens, "tokens_total": sum(tokens),
        "seconds": [round(b - a, 4) for a, b in itertools.pairwise(ends)], **more,
    }  # fmt: skip
    if len(ends) > WARM_UP_STEPS:
        skip = WARM_UP_STEPS - 1
        result["tokens_per_second"] = sum(tokens[skip + 1 :]) / (ends[-1] - ends[skip])
    return result


def keep(options: argparse.Namespace, entry: dict[str, Any], forget: bool) -> None:
    """Merge one run into the results. Ours of another commit are forgotten: they are no longer ours."""
    file = f"speed-{options.comparison}{options.suffix}.json"
    known = results.load(file) or {"kind": "speed", "comparison": options.comparison, "runs": []}
    same = [run for run in known["runs"] if (run["name"], run["data"]) == (entry["name"], entry["data"])]
    stale = [
        run for run in same
        if forget or run["threads"] != entry["threads"] or run.get("steps") not in (None, entry.get("steps"))
        or (CONTENDERS[entry["name"]].tool == "tutelage" and run["commit"] != entry["commit"]) or "failed" in run
    ]  # fmt: skip
    known["runs"] = [run for run in known["runs"] if run not in stale] + [entry]
    known["warm_up_steps"] = WARM_UP_STEPS
    results.write(file, known)


def said(entry: dict[str, Any]) -> str:
    """One line about a run."""
    if "failed" in entry:
        return entry["failed"]
    rate = f"{entry['tokens_per_second']:.1f} tokens/s, " if "tokens_per_second" in entry else ""
    first = f", first step after {entry['first_step_seconds']:.1f} s" if "first_step_seconds" in entry else ""
    return f"{rate}{entry['peak_mib']:.0f} MiB{first}"


def main() -> None:
    """Read the flags and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=list(MAIN))
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--data", nargs="+", choices=("dolly", "alpaca"), default=["dolly"])
    parser.add_argument("--steps", type=int, default=8, help="steps of 8 rows per run; the first two are not counted")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which a contender is stopped")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs of these contenders")
    parser.add_argument(
        "--suffix", default="", help="results/speed-<comparison><suffix>.json, e.g. -smoke to try things"
    )
    parser.add_argument("--model", help="a folder with SmolLM2-135M-Instruct; default: the catalogue's smollm2-135m")
    parser.add_argument("--rows", type=Path, default=beside("shared") / "data" / "bench")
    parser.add_argument(
        "--peers", type=Path, default=beside("peers"), help="the environments of bench/peers/install.sh"
    )
    parser.add_argument("--work", type=Path, default=BENCH.parent / "runs" / "bench", help="where runs and logs go")
    options = parser.parse_args()
    options.model = options.model or default_model(options.threads)
    options.contenders = options.contenders or MAIN[options.comparison]
    if options.comparison == "first":
        options.data = ["both"]
    measure(options)


if __name__ == "__main__":
    main()
