"""Held-out gain of each variant of LoRA after equal training: the recipe of bench/quality, one option changed.

python bench/variants/run.py                      train and score what is missing → results/variants.json, a table on stdout
python bench/variants/run.py --seeds 0 --only dora pissa    a part of it; every call tabulates what there is by then

What is trained or scored already is kept, and what was interrupted goes on. Nothing but the option is tuned for a variant,
so that this says what the option does to the default recipe on 400 rows (50 steps), not what it could do.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

BENCH = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCH))

from harness import results  # noqa: E402
from harness.contenders import answer, beside, command, default_model, run  # noqa: E402

RESAMPLES = 5000
PLAIN = "lora"
VARIANTS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "dora": ("method.dora=true",),
    "rslora": ("method.rslora=true",),
    "pissa": ("method.init=pissa", "method.alpha=16"),  # alpha = rank, as published
    "lora+": ("method.loraplus_ratio=16",),
    "neftune": ("optim.neftune_alpha=5",),
    "4 x the rate": ("optim.learning_rate=8e-4",),  # no variant: what the others are to be judged beside
    "mlp": ("method.target_modules=mlp",),
    "attention": ("method.target_modules=attention",),
}


def folder(variant: str, seed: int, options: argparse.Namespace) -> Path:
    """Where a run goes."""
    return Path(options.work) / "variants" / f"{variant}-{seed}"


def manifest(variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """A run's manifest, or nothing before there is one."""
    path = folder(variant, seed, options) / "manifest.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def train(variant: str, seed: int, options: argparse.Namespace) -> None:
    """Train one seed of one variant, unless that is done."""
    if manifest(variant, seed, options).get("status") == "finished":
        return
    out = folder(variant, seed, options)
    arguments = command(
        "tutelage", method="lora", model=options.model, rows=options.rows / "dolly_train.jsonl", out=out,
        threads=options.threads, peers=Path(), seed=seed, max_steps=options.steps,
    )  # fmt: skip
    changes = [part for change in VARIANTS[variant] for part in ("--set", change)]
    ended = run([*arguments, *changes, "--set", "precision=bf16"], out, options.threads)
    if ended.measured.returncode != 0:
        raise SystemExit(f"this failed with {ended.measured.returncode}; see {ended.log}")


def score(adapter: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """The held-out losses of an adapter (none: the untouched model), by bench/quality's scorer; kept beside it."""
    name = "base" if adapter is None else adapter.parent.name
    kept = Path(options.work) / "variants" / "scores" / f"{name}.json"
    if not kept.is_file():
        scorer = [sys.executable, str(BENCH / "quality" / "score.py"), "--model", options.model]
        given = ["--data", str(options.rows / "dolly_heldout.jsonl"), *([] if adapter is None else [str(adapter)])]
        found = answer([*scorer, *given], options.threads)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found), encoding="utf-8")
    return dict(json.loads(kept.read_text(encoding="utf-8")))


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """Per variant: gain in nats per target token by seed and on average, and the difference from LoRA over the seeds that
    both have, with an interval over held-out rows."""
    base = score(None, options)
    targets, untouched = np.array(base["row_targets"]), np.array(base["row_losses"])
    gains: dict[str, dict[int, Any]] = {
        variant: {
            seed: untouched - np.array(score(folder(variant, seed, options) / "model", options)["row_losses"])
            for seed in options.seeds if manifest(variant, seed, options).get("status") == "finished"
        }
        for variant in VARIANTS
    }  # fmt: skip
    draw = np.random.default_rng(0).integers(len(targets), size=(RESAMPLES, len(targets)))
    found = {}
    for variant, by_seed in gains.items():
        shared = [seed for seed in by_seed if seed in gains[PLAIN]]
        if not shared:
            continue
        differences = np.mean([by_seed[seed] - gains[PLAIN][seed] for seed in shared], 0)
        resampled = differences[draw].sum(1) / targets[draw].sum(1)
        found[variant] = {
            "options": list(VARIANTS[variant]), "gains": {seed: float(g.sum() / targets.sum()) for seed, g in by_seed.items()},
            "mean": float(np.mean([by_seed[seed].sum() for seed in shared]) / targets.sum()),
            "over_lora": [float(differences.sum() / targets.sum()), *map(float, np.quantile(resampled, [0.025, 0.975]))],
            "trainable": manifest(variant, shared[0], options)["totals"]["trainable_parameters"],
        }  # fmt: skip
    return {"base_loss": base["loss"], "held_out_rows": base["rows"], "variants": found}


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = ["| variant | trained values | gain by seed | mean | over LoRA (95 % interval) |", "|---|---|---|---|---|"]
    for variant, row in result["variants"].items():
        middle, low, high = row["over_lora"]
        over = "" if variant == PLAIN else f"{middle:+.4f} ({low:+.4f} to {high:+.4f})"
        by_seed = ", ".join(f"{gain:.4f}" for gain in row["gains"].values())
        lines.append(f"| {variant} | {row['trainable']:,} | {by_seed} | {row['mean']:.4f} | {over} |")
    return "\n".join(lines)


def main() -> None:
    """Read the flags, train and score what is missing, write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="optimiser steps; default: the recipe's one epoch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--suffix", default="", help="results/variants<suffix>.json, e.g. -smoke to try things")
    parser.add_argument("--model", help="a folder with SmolLM2-135M-Instruct; default: the catalogue's smollm2-135m")
    parser.add_argument("--rows", type=Path, default=beside("shared") / "data" / "bench")
    parser.add_argument("--work", type=Path, default=BENCH.parent / "runs" / "bench", help="where runs and logs go")
    options = parser.parse_args()
    options.model = options.model or default_model(options.threads)
    for seed in options.seeds:
        for variant in options.only:
            train(variant, seed, options)
            score(folder(variant, seed, options) / "model", options)
            result = {"kind": "variants", "steps": options.steps, **results.circumstances(), **compared(options)}
            results.write(f"variants{options.suffix}.json", result)
    print(table(compared(options)))


if __name__ == "__main__":
    main()
