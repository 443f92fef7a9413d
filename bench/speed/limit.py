"""The limit: how fast the matrix products and the attention of this model alone could train these rows.

    python bench/speed/limit.py --model DIR --train rows.jsonl --out DIR [--method full]

Everything in bf16, each product at its own shape with all tokens of an average step at once, at the rate that this machine
is measured at, here and now. Counted, for the tokens of the rows (every row whole: a prefix that rows share is not saved):

- every linear layer forward, and its input's gradient, but for those whose input is the frozen embedding (LoRA);
- LoRA: the two small products forward, and the four backward; full: every weight's gradient;
- the head forward and backward over rows with a target only; full: its weight's gradient;
- attention, per row at its own length: forward the faster of SDPA and of its two products, backward its five products,
  all as batched products over whole rows.

Not counted: recomputation, elementwise work, norms, softmax backward, the optimiser, copies. Writes figures.json.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import itertools

import torch
from harness.contenders import BATCH
from harness.rows import encoded_rows

RANK = 16
SECONDS, TIMES = 0.4, 5  # how long, and at least how often, a product is repeated
LENGTHS = (16, 32, 64, 128, 192, 256, 384, 512)  # at which attention is measured; between them, interpolated


@dataclass(frozen=True)
class Timed:
    """One product: its name, seconds of one (median), how many there are in a step, and its floating-point operations."""

    name: str
    seconds: float
    count: int
    flop: float

    def as_json(self) -> dict[str, Any]:
        """Seconds per step, and the measured rate."""
        rate = self.flop / self.seconds / 1e9 if self.seconds else 0.0
        return {"name": self.name, "seconds": self.seconds * self.count, "count": self.count, "gflops": round(rate, 1)}


def seconds_of(work: Callable[[], object]) -> float:
    """The median time of `work`, warmed up."""
    work()
    taken: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(taken) < TIMES or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def product(name: str, m: int, k: int, n: int, count: int, transposed: str = "") -> Timed:
    """[m, k] times [k, n]; `transposed` names the operand that lies in memory the other way round: a, b or none."""
    a = torch.randn(k, m).bfloat16().t() if transposed == "a" else torch.randn(m, k).bfloat16()
    b = torch.randn(n, k).bfloat16().t() if transposed == "b" else torch.randn(k, n).bfloat16()
    return Timed(name, seconds_of(lambda: a @ b), count, 2.0 * m * k * n)


def linear_shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the linear layers of one Llama block."""
    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    return {
        "q": (hidden, queries), "k": (hidden, keys), "v": (hidden, keys), "o": (queries, hidden),
        "gate": (hidden, inner), "up": (hidden, inner), "down": (inner, hidden),
    }  # fmt: skip


def linears(config: dict[str, Any], method: str, tokens: int) -> list[Timed]:
    """All linear layers of the body for `tokens` tokens."""
    layers, timed = config["num_hidden_layers"], []
    for name, (inputs, outputs) in linear_shapes(config).items():
        timed.append(product(f"{name} forward", tokens, inputs, outputs, layers, "b"))
        frozen_input = method == "lora" and name in ("q", "k", "v")  # of the first layer: nothing before it trains
        timed.append(product(f"{name} dX", tokens, outputs, inputs, layers - frozen_input))
        if method == "full":
            timed.append(product(f"{name} dW", outputs, tokens, inputs, layers, "a"))
            continue
        timed += [
            product(f"{name} lora xA", tokens, inputs, RANK, layers, "b"),
            product(f"{name} lora hB", tokens, RANK, outputs, layers, "b"),
            product(f"{name} lora dh", tokens, outputs, RANK, layers),
            product(f"{name} lora dB", outputs, tokens, RANK, layers, "a"),
            product(f"{name} lora dA", RANK, tokens, inputs, layers, "a"),
            product(f"{name} lora dX", tokens, RANK, inputs, layers - frozen_input),
        ]
    return timed


def head(config: dict[str, Any], method: str, targets: int) -> list[Timed]:
    """The output head over `targets` rows."""
    hidden, words = config["hidden_size"], config["vocab_size"]
    timed = [product("head forward", targets, hidden, words, 1, "b"), product("head dX", targets, words, hidden, 1)]
    return timed + ([product("head dW", words, targets, hidden, 1, "a")] if method == "full" else [])


def attention(config: dict[str, Any], lengths: Sequence[int]) -> list[Timed]:
    """Seconds per row of its forward and of its backward's products, averaged over `lengths`."""
    heads, keys, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    grid = [length for length in LENGTHS if length < max(lengths)] + [max(lengths)]
    measured = {length: attention_at(length, heads, keys, dim) for length in grid}
    timed = []
    for part, name in enumerate(("attention forward", "attention backward")):
        each = [interpolated(length, {at: pair[part] for at, pair in measured.items()}) for length in lengths]
        flop = (4.0 if part == 0 else 10.0) * heads * dim * sum(length**2 for length in lengths) / len(lengths)
        timed.append(Timed(name, sum(each) / len(each), config["num_hidden_layers"] * BATCH, flop))
    return timed


def attention_at(length: int, heads: int, keys: int, dim: int) -> tuple[float, float]:
    """Seconds of one row's forward and backward in one layer."""
    q, k, v = (torch.randn(1, heads, length, dim).bfloat16() for _ in range(3))
    forward = seconds_of(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
    tall = heads // keys * length  # query heads of one key head are rows of one product
    rows, cols = torch.randn(keys, tall, dim).bfloat16(), torch.randn(keys, length, dim).bfloat16()
    square = torch.randn(keys, tall, length).bfloat16()

    def products() -> None:
        torch.bmm(rows, cols.transpose(1, 2))  # scores
        torch.bmm(square, cols)  # weighted values

    def backward() -> None:
        torch.bmm(rows, cols.transpose(1, 2))  # scores again
        torch.bmm(rows, cols.transpose(1, 2))  # dP
        torch.bmm(square.transpose(1, 2), rows)  # dV
        torch.bmm(square, cols)  # dQ
        torch.bmm(square.transpose(1, 2), rows)  # dK

    return min(forward, seconds_of(products)), seconds_of(backward)


def interpolated(at: int, known: dict[int, float]) -> float:
    """Linear between the known points; below the first, the first."""
    points = sorted(known.items())
    if at <= points[0][0]:
        return points[0][1]
    for (a, x), (b, y) in itertools.pairwise(points):
        if at <= b:
            return x + (y - x) * (at - a) / (b - a)
    return points[-1][1]


def main() -> None:
    """Measure, add up, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    options = parser.parse_args()
    config = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
    rows = encoded_rows(options.model, options.train)
    lengths = [len(row.ids) for row in rows]
    steps = len(rows) / BATCH
    tokens, targets = sum(lengths), sum(int((row.weights[1:] > 0).sum()) for row in rows)
    timed = [
        *linears(config, options.method, round(tokens / steps)), *head(config, options.method, round(targets / steps)),
        *attention(config, lengths),
    ]  # fmt: skip
    step = sum(each.seconds * each.count for each in timed)
    result = {
        "tool": "limit", "method": options.method, "tokens_per_second": tokens / steps / step, "tokens_total": tokens,
        "targets_total": targets, "step_seconds": step, "threads": torch.get_num_threads(), "steps": round(steps),
        "versions": {"torch": torch.__version__}, "parts": [each.as_json() for each in timed],
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "figures.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for part in sorted(result["parts"], key=lambda part: -part["seconds"])[:12]:
        print(f"{part['seconds']:8.3f} s  {part['gflops']:7.0f} GFLOP/s  {part['name']}")
    print(f"{result['tokens_per_second']:.0f} tokens/s ({tokens} tokens, {targets} targets, {step:.2f} s a step)")


if __name__ == "__main__":
    main()
