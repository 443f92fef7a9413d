"""LitGPT's finetune_lora and finetune_full, with the settings of our recipes. Runs in LitGPT's own environment.

    python bench/peers/train_litgpt.py --model DIR --train rows.jsonl --out DIR [--method full] …

Calls `litgpt.finetune.lora.setup` and `.full.setup`, which are what `litgpt finetune_lora` and `finetune_full` call. The
model is converted by LitGPT's own converter, once, into a folder beside --out. Writes figures.json (record.py) into --out.
"""

import argparse
import csv
import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import JSON
from litgpt.finetune import full, lora
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
from record import Recorder, read_messages, write_figures

BATCH = 8
NAME = "SmolLM2-135M-Instruct"  # LitGPT finds configuration and prompt style by it


class Counted(JSON):
    """LitGPT's JSON data; notes the tokens of each training micro-batch."""

    recorder = None

    def train_dataloader(self):
        """LitGPT's own loader, its collate function watched."""
        loader = super().train_dataloader()
        collate = loader.collate_fn

        def counted(samples):
            batch = collate(samples)
            useful = sum(len(sample["input_ids"]) for sample in samples)
            self.recorder.micro_batch(useful, batch["input_ids"].numel(), (batch["labels"][:, 1:] != -100).sum())
            return batch

        loader.collate_fn = counted
        return loader


def converted(model, beside):
    """The model in LitGPT's format; converted where that was not done yet."""
    folder = beside / "litgpt-model" / NAME
    if not (folder / "lit_model.pth").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for path in Path(model).iterdir():
            if path.suffix in (".json", ".safetensors", ".jinja"):
                shutil.copy(path, folder)
        convert_hf_checkpoint(folder, model_name=NAME)
        (folder / "model.safetensors").unlink()
    return folder


def write_rows(rows, folder):
    """train.json as LitGPT reads it, and val.json with one row, because LitGPT validates before it trains."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for messages in rows:
        if [m["role"] for m in messages] != ["user", "assistant"]:
            raise SystemExit("LitGPT's prompt styles know one user turn and one answer only")
        listed.append({"instruction": messages[0]["content"], "output": messages[1]["content"]})
    (folder / "train.json").write_text(json.dumps(listed), encoding="utf-8")
    (folder / "val.json").write_text(json.dumps(listed[:1]), encoding="utf-8")
    return len(listed)


def train(options):
    """Train, and return the figures."""
    checkpoint = converted(options.model, options.out.parent)
    count = write_rows(read_messages(options.train), options.out / "data")
    steps = options.max_steps or -(-count // BATCH)
    recorder = Counted.recorder = Recorder()
    data = Counted(options.out / "data", mask_prompt=True, prompt_style="smollm2", num_workers=0, seed=options.seed)
    adamw = {"lr": options.learning_rate, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8}
    arguments = {
        "checkpoint_dir": checkpoint, "out_dir": options.out / "litgpt", "precision": options.precision, "data": data,
        "devices": 1, "seed": options.seed, "optimizer": {"class_path": "torch.optim.AdamW", "init_args": adamw},
        "train": TrainArgs(
            save_interval=None, global_batch_size=BATCH, micro_batch_size=options.micro_batch, max_steps=steps,
            lr_warmup_steps=max(1, round(0.03 * steps)), epochs=options.epochs, max_seq_length=512,
        ),
        "eval": EvalArgs(interval=10**9, max_new_tokens=1, max_iters=1, final_validation=False),
    }  # fmt: skip
    sys.argv = ["litgpt", str(checkpoint)]  # LitGPT parses its command line for what it stores beside the result
    if options.method == "lora":
        adapted = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lora_head": False}
        adapted |= {f"lora_{name}": True for name in ("query", "key", "value", "projection", "mlp")}
        sys.argv += [part for name, value in adapted.items() for part in (f"--{name}", str(value).lower())]
        lora.setup(**arguments, **adapted)
    else:
        full.setup(**arguments)
    return {
        "tool": "litgpt", "method": options.method, "seed": options.seed, "precision": options.precision,
        "micro_batch": options.micro_batch, "rows": count, "loss": logged(options.out / "litgpt"),
        **recorder.figures(BATCH // options.micro_batch),
    }  # fmt: skip


def logged(folder):
    """The losses that LitGPT logged, one for each micro-batch."""
    path = next(folder.rglob("metrics.csv"))
    with open(path, encoding="utf-8", newline="") as lines:
        return [float(row["loss"]) for row in csv.DictReader(lines) if row.get("loss")]


def main():
    """Read the flags, train, write figures.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder with SmolLM2-135M-Instruct")
    parser.add_argument("--train", required=True, help="a JSON Lines file with `messages`")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--precision", choices=("bf16-true", "bf16-mixed", "32-true"), default="bf16-true")
    parser.add_argument("--max-steps", type=int, help="stop after so many steps; default: one epoch")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--micro-batch", type=int, choices=(1, 2, 4, 8), default=BATCH, help="rows per forward pass")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_figures(options.out, train(options))


if __name__ == "__main__":
    main()
