"""What half fine-tuning saves: bytes of gradients, moments, masters and weights, peak memory, and time per step, beside full.

python bench/forgetting/cost.py                 both in turn, three times each → results/half-cost.json
python bench/forgetting/cost.py --rounds 1 --steps 4 --suffix -smoke

Bytes are counted on the live optimiser behind the last step; peak memory is the process's anonymous high-water mark. Times are
only valid on a machine with nothing else to do; its load is in the result.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

BENCH = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCH))

from harness import results  # noqa: E402
from harness.contenders import answer, beside, default_model  # noqa: E402
from harness.rows import spread_rows  # noqa: E402

from tutelage.recipe import make_recipe  # noqa: E402
from tutelage.train.loop import training  # noqa: E402
from tutelage.train.material import gather  # noqa: E402
from tutelage.train.memory import PeakMemory  # noqa: E402
from tutelage.train.setup import build_state, choose_plan  # noqa: E402

METHODS: dict[str, Any] = {
    "full": {"kind": "full"}, "half, round: run": {"kind": "half"}, "half, round: 4": {"kind": "half", "round": 4},
}  # fmt: skip


def size(tensors: Any) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def one(options: argparse.Namespace) -> dict[str, Any]:
    """Train some steps in this process, and count."""
    values = {
        "model": options.model, "data": {"train": str(options.rows)}, "method": METHODS[options.one], "max_tokens": 512,
        "optim": {"learning_rate": 2e-5, "steps": options.steps, "batch_size": 8}, "over_length": "truncate",
        "threads": options.threads, "precision": options.precision, "save": {"every": 10**6}, "batch": {"tokens": 2048},
    }  # fmt: skip
    recipe = make_recipe(values)
    seconds, gradients = [], 0
    with PeakMemory() as peak:
        state = build_state(
            recipe, gather(recipe, lambda text: None), choose_plan(recipe), options.work / "checkpoints"
        )
        state.optimizer.reserve()
        state.saved_steps = set()
        for event in training(state):
            if event.event == "step":
                seconds.append(event.seconds)
                held = (
                    state.optimizer.buffers.values()
                )  # of bf16 parameters; in fp32 a gradient is as large as its weight
                gradients = max(gradients, size(held) or 4 * state.trainable.count)
                if len(seconds) == options.steps:
                    break  # before the last checkpoint
    optimizer, model = state.optimizer, state.backbone.model
    moments = [t for each in optimizer.adam.state.values() for t in each.values() if torch.is_tensor(t)]
    return {
        "trained": state.trainable.count, "total": state.trainable.total, "gradients": gradients, "moments": size(moments),
        "masters": size(m for n, m in optimizer.masters.items() if m is not optimizer.known[n]),
        "weights": size(model.parameters()), "peak_mib": peak.mib, "seconds": statistics.median(seconds[1:]),
        "precision": state.plan.precision,
    }  # fmt: skip


def main() -> None:
    """Measure each method in processes of its own, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=METHODS, help="measure this one here, and print it")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--model", help="a folder with SmolLM2-135M-Instruct; default: the catalogue's smollm2-135m")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--work", type=Path, default=BENCH.parent / "runs" / "bench" / "half-cost")
    parser.add_argument("--suffix", default="", help="results/half-cost<suffix>.json")
    options = parser.parse_args()
    options.model = options.model or default_model(options.threads)
    if options.one:
        print(json.dumps(one(options)))
        return
    source = beside("shared") / "data" / "bench" / "dolly_train.jsonl"
    rows = options.rows or spread_rows(source, options.steps, options.work)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for _ in range(options.rounds):
        for name, measured in found.items():
            given = {"one": name, "steps": options.steps, "threads": options.threads, "precision": options.precision,
                     "model": options.model, "rows": rows, "work": options.work}  # fmt: skip
            flags = [part for key, value in given.items() for part in (f"--{key}", str(value))]
            measured.append(answer([sys.executable, __file__, *flags], options.threads))
            print(f"{name}: {measured[-1]}", file=sys.stderr, flush=True)
    results.write(f"half-cost{options.suffix}.json", {"kind": "half-cost", **results.circumstances(), "methods": found})


if __name__ == "__main__":
    main()
