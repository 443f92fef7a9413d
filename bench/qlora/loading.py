"""What a model takes once it is quantised, and the most that loading it so takes: anonymous memory, sampled every millisecond.

    python bench/qlora/loading.py MODEL [--precision fp32] [--quant-type int4]

MODEL is a folder, or a catalogue name that was fetched. Prints one JSON document and ends with 1 where a bound of the project's
is broken: weights of at most 0.30 of their bf16 bytes, and a loading peak below 1.2 x the quantised model + its largest layer.
"""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.memory import anonymous_mib

from tutelage.engine.four_bits import FourBitLinear, Quantisation, Scratch
from tutelage.methods.qlora import four_bit_linear, load_base, quantisation_of, quantised
from tutelage.models.fetch import fetch
from tutelage.models.load import load_model, stored_dtype
from tutelage.models.ref import parse_ref
from tutelage.recipe import QloraSpec

MIB = 2**20


class Peak:
    """The most anonymous memory of this process above what it had at the start, in MiB."""

    def __init__(self) -> None:
        self.start = self.most = anonymous_mib(os.getpid())
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self) -> None:
        while not self.done.wait(0.001):
            self.most = max(self.most, anonymous_mib(os.getpid()))

    def __enter__(self) -> "Peak":
        self.thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.done.set()
        self.thread.join()
        self.most = max(self.most, anonymous_mib(os.getpid()))

    @property
    def mib(self) -> float:
        return self.most - self.start


def measure(path: Path, dtype: torch.dtype, how: Quantisation) -> dict[str, Any]:
    """Load the model of a folder quantised, and count."""
    four_bit_linear(torch.nn.Linear(4096, 256), how, Scratch())(torch.randn(4, 4096))  # libraries, threads, first use
    began = time.perf_counter()
    with Peak() as peak:
        model = load_base(lambda wanted: load_model(path, dtype=wanted), path, dtype, how)
    seconds = time.perf_counter() - began
    layers = [layer for _, layer in quantised(model)]
    kept = sum(layer.weight_bytes for layer in layers)
    values = sum(layer.in_features * layer.out_features for layer in layers)
    tensors = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    whole = sum(tensors.values()) / MIB
    layer_mib = largest_layer(model) / MIB
    return {
        "model": str(path), "stored": str(stored_dtype(path)), "dtype": str(dtype), "quantised_weights": values,
        "quantised_bytes": kept, "bf16_bytes": 2 * values, "ratio": kept / (2 * values), "bits_per_weight": 8 * kept / values,
        "model_mib": whole, "largest_layer_mib": layer_mib, "peak_mib": peak.mib, "bound_mib": 1.2 * whole + layer_mib,
        "seconds": seconds,
    }  # fmt: skip


def largest_layer(model: Any) -> int:
    """Bytes of the largest transformer layer in bf16."""
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m))
    linear = [[m for m in block.modules() if isinstance(m, FourBitLinear)] for block in blocks]
    return max(2 * sum(layer.in_features * layer.out_features for layer in layers) for layers in linear)


def main() -> None:
    """Read the flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--quant-type", choices=("nf4", "int4"), default="nf4")
    options = parser.parse_args()
    how = quantisation_of(QloraSpec.model_validate({"quant_type": options.quant_type}))
    assert how is not None
    folder = fetch(parse_ref(options.model), say=lambda text: None).path
    found = measure(folder, torch.bfloat16 if options.precision == "bf16" else torch.float32, how)
    print(json.dumps({name: round(v, 4) if isinstance(v, float) else v for name, v in found.items()}, indent=2))
    sys.exit(0 if found["ratio"] <= 0.30 and found["peak_mib"] < found["bound_mib"] else 1)


if __name__ == "__main__":
    main()
