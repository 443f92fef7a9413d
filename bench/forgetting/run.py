"""What each means against forgetting costs and saves: what was learnt beside what was forgotten, three seeds, real rows.

python bench/forgetting/run.py                          train and score what is missing → results/forgetting.json
python bench/forgetting/run.py --methods full half --seeds 0    a part of it
python bench/forgetting/run.py table                    docs/forgetting.md's table from results/forgetting.json

SmolLM2-135M-Instruct learns 128 Dolly rows in one epoch. Learnt: the loss on 150 held-out Dolly rows. Forgotten: the loss on
WikiText-2 lines and LAMBADA passages, the right answers of ARC-easy questions, and KL(base || tuned) on the base model's own
answers. Replayed are other WikiText-2 lines than those that are scored. One scorer, in the runs' own precision (bf16), adapters
beside the weights. What is trained or scored already is kept; means of which the working folder has no run stay in the result
as an earlier call measured them.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

BENCH = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCH))

from harness import results  # noqa: E402
from harness.contenders import beside, default_model  # noqa: E402

import tutelage  # noqa: E402
from tutelage.evaluate.forgetting import Probed, probe  # noqa: E402
from tutelage.evaluate.probing import Probe, local, shipped  # noqa: E402
from tutelage.evaluate.writers import CausalWriter  # noqa: E402
from tutelage.methods.opening import Opened, load_located, locate  # noqa: E402
from tutelage.recipe import make_recipe  # noqa: E402
from tutelage.runs import history, read_json, write_json  # noqa: E402
from tutelage.tasks.likelihood import backbone_of, target_losses  # noqa: E402

from harness.rows import encoded_rows  # noqa: E402 isort: skip

DOCS = BENCH.parent / "docs" / "forgetting.md"
MARKS = ("<!-- table: python bench/forgetting/run.py table -->", "<!-- end of table -->")
RESAMPLES, ROWS, REPLAYED, SCORED_LINES = 4000, 128, 128, 60
FULL_RATE, LOW_RATE, LORA_RATE = 1e-4, 2e-5, 5e-4


@dataclass(frozen=True)
class Means:
    """A way to train: what stands in the recipe, and how a reader writes it."""

    line: str
    method: Any = "full"
    rate: float = FULL_RATE
    replay: float = 0.0
    keys: Mapping[str, Any] = field(default_factory=dict)


MEANS = {
    "full": Means("method: full"),
    "lower rate": Means("optim: {learning_rate: 2.0e-5}", rate=LOW_RATE),
    "half": Means("method: half", method="half"),
    "replay": Means("data: {train: [mine.jsonl, {path: general.txt, weight: 0.25, task: text}]}", replay=0.25),
    "KL": Means("loss: {kl: 1.0}", keys={"loss": {"kl": 1.0}}),
    "lora": Means("method: {kind: lora, rank: 16}", method={"kind": "lora", "rank": 16}, rate=LORA_RATE),
    "lora-mlp": Means(
        "method: {kind: lora, rank: 16, target_modules: mlp}",
        method={"kind": "lora", "rank": 16, "target_modules": "mlp"}, rate=LORA_RATE,
    ),
    "lora and KL": Means(
        "loss: {kl: 1.0}", method={"kind": "lora", "rank": 16}, rate=LORA_RATE, keys={"loss": {"kl": 1.0}}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Files:
    """The rows: to learn, to replay, held out, and the probes."""

    train: Path
    replay: Path
    held_out: Path
    probes: Path


def files(shared: Path, work: Path) -> Files:
    """Written anew from ../shared. Of WikiText-2 lines with at least 30 words the first half is scored, the other one replayed."""
    probes = work / "probes"
    probes.mkdir(parents=True, exist_ok=True)
    rows = (shared / "bench" / "dolly_train.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS]
    text = (shared / "probes" / "wikitext2" / "test.txt").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if len(line.split()) >= 30]
    half = len(lines) // 2  # articles stand one after the other: at most one lies on both sides
    scored, replayed = (spread(part, n) for part, n in ((lines[:half], SCORED_LINES), (lines[half:], REPLAYED)))
    found = Files(work / "train.jsonl", work / "replay.txt", shared / "bench" / "dolly_heldout.jsonl", probes)
    for path, content in ((found.train, rows), (found.replay, replayed), (probes / "wikitext.txt", scored)):
        path.write_text("".join(line + "\n" for line in content), encoding="utf-8")
    for name, most in (("lambada", 100), ("arc_easy", 100)):
        source = (shared / "probes" / name / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        (probes / f"{name}.jsonl").write_text("".join(line + "\n" for line in spread(source, most)), encoding="utf-8")
    return found


def spread(items: Sequence[str], most: int) -> list[str]:
    """At most `most` of the items, evenly spread."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)


def recipe(means: Means, seed: int, of: Files, model: str, threads: int, out: Path) -> tutelage.Recipe:
    """The recipe of one run."""
    sources: list[dict[str, Any]] = [{"path": str(of.train)}]
    if means.replay:
        sources.append({"path": str(of.replay), "weight": means.replay, "task": {"kind": "text"}})
    values = {
        "model": model, "data": {"train": sources}, "method": means.method, "max_tokens": 512, "over_length": "truncate",
        "optim": {"learning_rate": means.rate, "epochs": 1, "batch_size": 8}, "seed": seed, "threads": threads,
        "out": str(out), "precision": "bf16", "forgetting": False,  # scored here
    }  # fmt: skip
    return make_recipe({**values, **means.keys})


def score(opened: Opened, of: Files, model: str, probes: Mapping[str, Sequence[Probe]], base: Probed | None) -> Probed:
    """Every probe, and the held-out rows as one more: (nats, tokens) of each."""
    probed = probe(CausalWriter(opened.model, opened.template), probes, base=base)
    rows = encoded_rows(Path(model), of.held_out)
    losses = target_losses(backbone_of(opened.model), rows)
    HELD_OUT[id(probed)] = [[float(part.sum()), len(part)] for part in losses]
    return probed


HELD_OUT: dict[int, list[list[float]]] = {}


def figures(probed: Probed) -> dict[str, list[list[float]]]:
    """Of each probe and row [nats, tokens], of questions [right, 1], of the base model's own answers [nats, tokens]."""
    found = {"held_out": HELD_OUT[id(probed)]}
    for name, predictions in probed.predictions.items():
        found[name] = [
            [p.likelihood.nats, p.likelihood.tokens] if p.likelihood else [float(p.output == p.reference), 1.0]
            for p in predictions
        ]
    found["own"] = [[nats, float(np.count_nonzero(r.weights[1:]))] for nats, r in zip(probed.own.nats, probed.own.rows)]
    return found


def one_run(name: str, seed: int, of: Files, options: argparse.Namespace, base: Probed, known: Any) -> None:
    """Train and score one seed of one means, unless that is done; the tuned model is removed then."""
    out = Path(options.work) / f"{name.replace(' ', '-')}-{seed}"
    kept = out.with_suffix(".json")
    spec = recipe(MEANS[name], seed, of, options.model, options.threads, out)
    if kept.is_file():
        return
    print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    totals = tutelage.train(spec)
    steps = [event["seconds"] for event in history(out) if event["event"] == "step"]
    opened = load_located(locate(str(out)), torch.bfloat16, merge=False)
    found = figures(score(opened, of, options.model, known, base))
    plan = read_json(out / "manifest.json")["plan"]
    write_json(kept, {
        "means": name, "seed": seed, "figures": found, "peak_mib": totals["peak_rss_mib"], "plan": plan,
        "trained": totals["trainable_parameters"], "seconds_per_step": float(np.median(steps)), "steps": totals["steps"],
    })  # fmt: skip
    shutil.rmtree(out)


def summed(rows: Any, draw: Any) -> Any:
    """Mean per token (or row) for each resample of rows: [resamples]."""
    array = np.array(rows)
    return array[draw, 0].sum(1) / array[draw, 1].sum(1)


def interval(base: list[list[float]], tuned: list[list[list[float]]], sign: float) -> dict[str, Any]:
    """The mean over seeds of (tuned - base) * sign, each seed's, and a 95 % interval: rows and seeds are drawn again."""
    generator = np.random.default_rng(0)
    rows = generator.integers(len(base), size=(RESAMPLES, len(base)))
    whole = np.arange(len(base))[None]
    each = np.stack([(summed(one, rows) - summed(base, rows)) * sign for one in tuned])  # [seeds, resamples]
    seeds = generator.integers(len(tuned), size=(len(tuned), RESAMPLES))
    drawn = np.take_along_axis(each, seeds, 0).mean(0)
    points = [float(((summed(one, whole) - summed(base, whole)) * sign)[0]) for one in tuned]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(np.mean(points)), "low": float(low), "high": float(high), "seeds": points}


MEASURES = {"held_out": -1.0, "wikitext": 1.0, "lambada": 1.0, "arc_easy": 1.0, "own": 1.0}


def collect(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is scored in the working folder, as one result."""
    base = read_json(Path(options.work) / "base.json")
    found: dict[str, Any] = {}
    for name, means in MEANS.items():
        kept = sorted(Path(options.work).glob(f"{name.replace(' ', '-')}-[0-9].json"))
        if kept:
            runs = [read_json(path) for path in kept]
            differences = {
                measure: interval(base[measure], [run["figures"][measure] for run in runs], sign)
                for measure, sign in MEASURES.items()
            }
            found[name] = {
                **{key: value for key, value in asdict(means).items() if key != "keys"}, "seeds": [r["seed"] for r in runs],
                "trained": runs[0]["trained"], "steps": runs[0]["steps"], "peak_mib": [r["peak_mib"] for r in runs],
                "differences": differences,
            }  # fmt: skip
    before = (results.load("forgetting.json") or {"means": {}})["means"]
    levels = {m: float(summed(base[m], np.arange(len(base[m]))[None])[0]) for m in MEASURES}
    sizes = {measure: len(base[measure]) for measure in MEASURES}
    return {"kind": "forgetting", **results.circumstances(), "base": levels, "rows": sizes,
            "means": {name: found.get(name, before.get(name)) for name in MEANS if name in found or name in before}}  # fmt: skip


def table(result: Mapping[str, Any]) -> list[str]:
    """The docs' table, in Markdown."""
    lines = [
        "| means | learnt (nats per token) | WikiText-2 | LAMBADA | ARC-easy, points | KL(base ‖ tuned) | trained | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in result["means"].items():
        cells = []
        for measure in MEASURES:
            d, factor, digits = one["differences"][measure], 100 if measure == "arc_easy" else 1, 3
            digits = 1 if measure == "arc_easy" else digits
            value, low, high = (f"{d[key] * factor:+.{digits}f}" for key in ("value", "low", "high"))
            cells.append(f"{value} ({low} to {high})")
        lines.append(f"| {name} | {' | '.join(cells)} | {one['trained'] / 1e6:.1f} M | {len(one['seeds'])} |")
    return lines


def write_table() -> None:
    """Put the table between its marks in docs/forgetting.md."""
    result = results.load("forgetting.json")
    if result is None:
        raise SystemExit("there is no results/forgetting.json yet")
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    text = "\n".join(["", "", *table(result), "", ""])
    DOCS.write_text(f"{before}{MARKS[0]}{text}{MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    """Read the flags, train and score what is missing, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--methods", nargs="+", choices=MEANS, default=list(MEANS), metavar="MEANS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", help="a folder with SmolLM2-135M-Instruct; default: the catalogue's smollm2-135m")
    parser.add_argument("--shared", type=Path, default=beside("shared") / "data")
    parser.add_argument("--work", type=Path, default=BENCH.parent / "runs" / "bench" / "forgetting")
    options = parser.parse_args()
    if options.what == "table":
        write_table()
        return
    options.model = options.model or default_model(options.threads)
    torch.set_num_threads(options.threads)
    of = files(options.shared, options.work)
    known: dict[str, list[Probe]] = {**local(str(of.probes), 10_000), "open_questions": shipped()["open_questions"]}
    started = time.perf_counter()
    untouched = score(load_located(locate(options.model), torch.bfloat16), of, options.model, known, None)
    write_json(options.work / "base.json", figures(untouched))
    print(f"the untouched model took {time.perf_counter() - started:.0f} s to score", file=sys.stderr, flush=True)
    for seed in options.seeds:
        for name in options.methods:
            one_run(name, seed, of, options, untouched, known)
            results.write("forgetting.json", collect(options))


if __name__ == "__main__":
    main()
