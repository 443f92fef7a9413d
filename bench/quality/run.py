"""Held-out gain after equal training, ours and TRL's, or our QLoRA's and our LoRA's: three seeds, one fp32 scorer.

python bench/quality/run.py lora       train every seed with both, score all → results/quality-lora.json
python bench/quality/run.py full       the same for full fine-tuning → results/quality-full.json
python bench/quality/run.py qlora      QLoRA beside LoRA, both ours, over the untouched model → results/quality-qlora.json
python bench/quality/run.py qlora-calibrated      the same on a calibrated base in blocks of 16
python bench/quality/run.py qlora-int4      the same on a base in 4-bit integers
python bench/quality/run.py qlora --rate 8e-4 --suffix=-8e-4      at another learning rate than the recipes'

What is trained or scored already is kept, so it may be stopped, and done in parts (--tools, --seeds); the result is
written by the call after which nothing is missing. TRL runs in bf16 autocast, 1 row per pass and 8 accumulated.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BENCH = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCH))

from harness import results  # noqa: E402
from harness.contenders import answer, beside, command, default_model, fresh, peer_python, run  # noqa: E402

from tutelage.train.manifest import machine, now  # noqa: E402

HERE = Path(__file__).resolve().parent
RESAMPLES = 5000
OTHER = {
    "lora": "trl",
    "full": "trl",
    "qlora": "lora",
    "qlora-calibrated": "lora",
    "qlora-int4": "lora",
}  # what ours is held to; "lora" is ours too
CALLED = {"trl": "TRL", "lora": "LoRA"}


def tools(options: argparse.Namespace) -> tuple[str, str]:
    """Both sides of the comparison."""
    return "tutelage", OTHER[options.method]


def contender(tool: str, options: argparse.Namespace) -> str:
    """The configuration in which a tool is trained."""
    return str(options.trl) if tool == "trl" else "tutelage"


def method_of(tool: str, options: argparse.Namespace) -> str:
    """The method with which a tool trains."""
    return "lora" if tool == "lora" else str(options.method)


def folder(tool: str, seed: int, options: argparse.Namespace) -> Path:
    """Where a run goes."""
    at = f"-{options.rate}" if options.rate else ""
    return Path(options.work) / f"quality-{method_of(tool, options)}{at}" / f"{contender(tool, options)}-{seed}"


def weights(tool: str, seed: int, options: argparse.Namespace) -> Path:
    """The adapter's or model's folder of a run."""
    place = folder(tool, seed, options)
    return place if tool == "trl" else place / "model"


def finished(tool: str, seed: int, options: argparse.Namespace) -> bool:
    """Whether a run is done."""
    place = folder(tool, seed, options)
    if tool != "trl":
        manifest = place / "manifest.json"
        return manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8"))["status"] == "finished"
    return (place / "figures.json").is_file()


def train(tool: str, seed: int, options: argparse.Namespace) -> None:
    """Train one seed with one tool, unless that is done. Ours continues what was interrupted; TRL begins anew."""
    if finished(tool, seed, options):
        return
    out = folder(tool, seed, options)
    arguments = command(
        contender(tool, options), method=method_of(tool, options), model=options.model, rows=options.rows / "dolly_train.jsonl",
        out=fresh(out) if tool == "trl" else out, threads=options.threads, peers=options.peers, seed=seed,
    )  # fmt: skip
    rate = ["--set", f"optim.learning_rate={options.rate}"] if options.rate else []
    ended = run([*arguments, *rate], out, options.threads)
    if ended.measured.returncode != 0:
        raise SystemExit(f"this failed with {ended.measured.returncode}; see {ended.log}")


def score(of: Path | None, options: argparse.Namespace, *, plain: bool = False) -> dict[str, Any]:
    """The held-out losses of one adapter or model (none: the untouched model), kept beside it."""
    name = "base" if of is None else (of.parent.name if of.name == "model" else of.name)
    runs = Path(options.work) / f"quality-{options.method}" if of is None else of.parents[of.name == "model"]
    kept = runs / "scores" / f"{name}{'-plain' if plain else ''}.json"
    newest = max((path.stat().st_mtime for path in of.glob("*.safetensors")), default=0.0) if of else 0.0
    if kept.is_file() and kept.stat().st_mtime > newest:
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    held_out = options.rows / "dolly_heldout.jsonl"
    arguments = [sys.executable, str(HERE / "score.py"), "--model", options.model, "--data", str(held_out)]
    found = answer([*arguments, *(["--plain"] if plain else []), *([str(of)] if of else [])], options.threads)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found), encoding="utf-8")
    return dict(found)


def same_tokens(options: argparse.Namespace) -> dict[str, int]:
    """How many training rows have the same ids and targets in both tools."""
    train_rows = options.rows / "dolly_train.jsonl"
    dump = Path(options.work) / f"quality-{options.method}" / "trl-tokens"
    arguments = command(
        "trl-fp32", method="lora", model=options.model, rows=train_rows, out=dump, threads=1, peers=options.peers
    )
    if run([*arguments, "--dump-tokens", str(dump.with_suffix(".json"))], dump, 1).measured.returncode != 0:
        raise SystemExit(f"TRL's tokens could not be written; see {dump}.log")
    compare = [sys.executable, str(HERE / "same_tokens.py"), "--model", options.model, "--train", str(train_rows)]
    counts: dict[str, int] = answer([*compare, "--trl-tokens", str(dump.with_suffix(".json"))], 1)
    return counts


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """Gains in nats per target token, per seed and on average, and an interval of the ratio over held-out rows."""
    base = score(None, options)
    targets, untouched = np.array(base["row_targets"]), np.array(base["row_losses"])
    gains = {
        tool: np.stack([untouched - np.array(score(weights(tool, s, options), options)["row_losses"]) for s in options.seeds])
        for tool in tools(options)
    }  # fmt: skip
    other = OTHER[options.method]
    per_seed = [
        {"seed": seed, **{tool: float(gain[i].sum() / targets.sum()) for tool, gain in gains.items()}}
        for i, seed in enumerate(options.seeds)
    ]
    mean = {tool: float(gain.mean(0).sum() / targets.sum()) for tool, gain in gains.items()}
    draw = np.random.default_rng(0).integers(len(targets), size=(RESAMPLES, len(targets)))
    ratios = gains["tutelage"].mean(0)[draw].sum(1) / gains[other].mean(0)[draw].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    checked = [weights(tool, options.seeds[0], options) for tool in tools(options)]
    differ = max(abs(score(of, options)["loss"] - score(of, options, plain=True)["loss"]) for of in checked)
    return {
        "base_loss": base["loss"], "held_out_rows": base["rows"], "held_out_targets": base["targets"], "gains": per_seed,
        "mean_gain": mean, "scorers_differ_by": differ,
        "ratios": {CALLED[other]: {"ratio": mean["tutelage"] / mean[other], "low": float(low), "high": float(high)}},
    }  # fmt: skip


def report(options: argparse.Namespace) -> None:
    """Write the result."""
    manifest = json.loads((folder("tutelage", options.seeds[0], options) / "manifest.json").read_text(encoding="utf-8"))
    ours = {name: version(name) for name in ("tutelage", "torch", "transformers")}
    result = {
        "kind": "quality", "method": options.method, "at": now(), "machine": machine(), "plan": manifest["plan"],
        "versions": {"ours": {**ours, "commit": commit()}}, **compared(options),
    }  # fmt: skip
    if "trl" in tools(options):
        peer = json.loads((folder("trl", options.seeds[0], options) / "figures.json").read_text(encoding="utf-8"))
        result |= {"trl_configuration": options.trl, "tokens": same_tokens(options)}
        result["versions"]["TRL"] = peer["versions"]
    results.write(f"quality-{options.method}{options.suffix}.json", result)


def commit() -> str:
    """This checkout's commit."""
    return str(results.circumstances()["commit"])


def main() -> None:
    """Read the flags, train and score what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=list(OTHER))
    parser.add_argument("--tools", nargs="+", choices=("tutelage", *CALLED), help="train with these only")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rate", help="learning rate of both, where both are ours")
    parser.add_argument("--trl", default="trl-autocast-8x1", help="TRL's configuration, a name of bench/speed/run.py")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--suffix", default="", help="results/quality-<method><suffix>.json, e.g. -smoke to try things")
    parser.add_argument("--model", help="a folder with SmolLM2-135M-Instruct; default: the catalogue's smollm2-135m")
    parser.add_argument("--rows", type=Path, default=beside("shared") / "data" / "bench")
    parser.add_argument(
        "--peers", type=Path, default=beside("peers"), help="the environments of bench/peers/install.sh"
    )
    parser.add_argument("--work", type=Path, default=BENCH.parent / "runs" / "bench", help="where runs and logs go")
    options = parser.parse_args()
    options.tools = options.tools or tools(options)
    if "trl" in options.tools and not peer_python(options.peers, "trl").is_file():
        parser.error(f"there is no TRL in {options.peers}: bench/peers/install.sh {options.peers} trl")
    if options.rate and "trl" in tools(options):
        parser.error("--rate is for QLoRA beside LoRA: TRL trains at its recipe's")
    options.model = options.model or default_model(options.threads)
    for seed in options.seeds:
        for tool in options.tools:
            train(tool, seed, options)
            score(weights(tool, seed, options), options)
    missing = [
        f"{tool} {seed}" for seed in options.seeds for tool in tools(options) if not finished(tool, seed, options)
    ]
    if missing:
        print(f"still to be trained: {', '.join(missing)}", file=sys.stderr)
        return
    report(options)


if __name__ == "__main__":
    main()
