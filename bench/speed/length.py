"""How cost grows with the length of examples: tokens per second and peak memory from 256 to 8,192 tokens, LoRA, one step each.

    python bench/speed/length.py [--model DIR] [--repeat 3]       → results/length.json

Each length is trained on the same text, cut into examples of that length, in a process of its own. Beside it what torch's own
attention would allow at its measured rate: the time of 256-token examples, with the time of SDPA (its CPU flash kernel forward
and backward, bf16, causal) at their length taken out and that at this length put in.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCH))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from harness import results  # noqa: E402
from harness.contenders import beside, default_model  # noqa: E402
from harness.memory import run_measured  # noqa: E402
from harness.rows import encoded_rows  # noqa: E402

from tutelage.data.types import At  # noqa: E402
from tutelage.encode.layout import make_layout  # noqa: E402
from tutelage.encode.types import Encoded  # noqa: E402
from tutelage.engine.backbone import make_backbone  # noqa: E402
from tutelage.methods import METHODS  # noqa: E402
from tutelage.models.load import load_model  # noqa: E402
from tutelage.recipe import LoraSpec  # noqa: E402
from tutelage.tasks import chat  # noqa: E402

LENGTHS = (256, 1024, 4096, 8192)
TOKENS = 8192  # per measurement
PACK = 2048  # tokens in a micro-batch, where an example is not longer


def examples(model: Path, rows: Path, length: int) -> list[Encoded]:
    """Examples of `length` tokens, the last two thirds trained, cut from all rows' tokens behind each other."""
    ids = np.concatenate([row.ids for row in encoded_rows(model, rows)])
    weights = np.where(np.arange(length) < length // 3, 0, 1).astype(np.float32)
    starts = [i * length for i in range(max(1, TOKENS // length))]
    roles = np.zeros(length, np.uint8)
    return [Encoded(ids[at : at + length].astype(np.int32), weights, roles, At(str(rows), 1)) for at in starts]


def one(model: Path, rows: Path, length: int, threads: int) -> dict[str, float]:
    """Seconds of one pass over all examples, the second of two."""
    torch.set_num_threads(threads)
    backbone = make_backbone(load_model(model, dtype=torch.bfloat16))
    METHODS.get("lora").prepare(backbone.model, LoraSpec(rank=16, alpha=32), seed=0)
    made, per = examples(model, rows, length), max(1, PACK // length)
    packs = [make_layout(made[i : i + per], share_prefix=False) for i in range(0, len(made), per)]
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for pack in packs:
            chat.loss(backbone, pack).total.backward()
        seconds = time.perf_counter() - start
    return {
        "tokens_per_second": len(made) * length / seconds,
        "sdpa_seconds": sdpa_seconds(backbone.model.config, length),
    }


def sdpa_seconds(config: object, length: int) -> float:
    """Of torch's attention, forward and backward, per token over all layers."""
    heads, layers = config.num_attention_heads, config.num_hidden_layers  # type: ignore[attr-defined]
    q, k, v = (
        torch.randn(1, heads, length, config.head_dim, dtype=torch.bfloat16, requires_grad=True)  # type: ignore[attr-defined]
        for _ in range(3)
    )
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:]) * layers / length


def main() -> None:
    """Measure every length in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--rows", type=Path, default=beside("shared") / "data" / "bench" / "alpaca_train.jsonl")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--length", type=int, help="measure only this one, here, and print it")
    options = parser.parse_args()
    model = Path(options.model or default_model(options.threads))
    if options.length:
        print(json.dumps(one(model, options.rows, options.length, options.threads)))
        return
    found: dict[int, list[dict[str, float]]] = {length: [] for length in LENGTHS}
    for repetition in range(options.repeat):
        for length in LENGTHS:
            log = BENCH.parent / "runs" / "bench" / "length.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            arguments = [
                sys.executable,
                __file__,
                "--length",
                str(length),
                "--model",
                str(model),
                "--rows",
                str(options.rows),
            ]
            measured = run_measured(
                [*arguments, "--threads", str(options.threads)], log, {"OMP_NUM_THREADS": str(options.threads)}
            )
            if measured.returncode != 0:
                raise SystemExit(log.read_text(encoding="utf-8"))
            figures = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
            found[length].append({**figures, "peak_mib": measured.peak_mib})
            print(f"{length} tokens, {repetition}: {found[length][-1]}", file=sys.stderr, flush=True)
    results.write(
        "length.json",
        {"kind": "length", **results.circumstances(), "threads": options.threads, "lengths": summed(found)},
    )


def summed(found: dict[int, list[dict[str, float]]]) -> dict[str, dict[str, object]]:
    """Median and spread per length, and the share of what SDPA allows."""
    medians = {n: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for n, runs in found.items()}
    short = medians[LENGTHS[0]]
    result = {}
    for length, runs in found.items():
        other = 1 / short["tokens_per_second"] - short["sdpa_seconds"]
        allowed = 1 / (max(other, 0.0) + medians[length]["sdpa_seconds"])
        result[str(length)] = {
            **{key: results.spread(run[key] for run in runs) for key in runs[0]},
            "sdpa_allows": allowed, "of_what_sdpa_allows": medians[length]["tokens_per_second"] / allowed,
            "of_256": medians[length]["tokens_per_second"] / short["tokens_per_second"],
        }  # fmt: skip
    return result


if __name__ == "__main__":
    main()
