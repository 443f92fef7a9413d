"""Where a training step's time goes: python bench/profile/step.py MODEL ROWS [--rows N] [--tokens N] [--method lora|full]

Prints seconds per operator (torch profiler, self time) for one forward and backward over the first N rows in
micro-batches, useful tokens/s, and the time that the model's matrix products alone would need at the rate they are
measured at.
"""

import argparse
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from tutelage.data.prepare import prepare
from tutelage.encode.batches import micro_batches
from tutelage.encode.layout import make_layout
from tutelage.engine.backbone import make_backbone
from tutelage.methods import METHODS
from tutelage.models.load import load_model
from tutelage.recipe import DataSpec, FullSpec, LoraSpec, SourceSpec
from tutelage.tasks import chat
from tutelage.train.material import open_template
from tutelage.train.setup import available_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--top", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    prepared = prepare(DataSpec(train=[SourceSpec(path=given.data)]), seed=0)
    template = open_template(given.model)
    rows = template.encode(prepared.train[: given.rows])
    backbone = make_backbone(load_model(given.model, dtype=torch.float32))
    spec = LoraSpec(rank=16, alpha=32) if given.method == "lora" else FullSpec()
    METHODS.get(given.method).prepare(backbone.model, spec, seed=0)
    groups = micro_batches(range(len(rows)), [len(row.ids) for row in rows], given.tokens)

    def step() -> tuple[int, int]:
        tokens = computed = 0
        for group in groups:
            layout = make_layout([rows[i] for i in group], share_prefix=True)
            chat.loss(backbone, layout).total.backward()
            tokens, computed = tokens + layout.tokens, computed + len(layout.ids)
        return tokens, computed

    step()
    start = time.perf_counter()
    tokens, computed = step()
    seconds = time.perf_counter() - start
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=given.top, max_name_column_width=60))
    print(f"{tokens} tokens ({computed} computed) in {seconds:.2f} s: {tokens / seconds:.0f} tokens/s")


if __name__ == "__main__":
    main()
