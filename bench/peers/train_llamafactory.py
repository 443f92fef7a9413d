"""LLaMA-Factory's supervised fine-tuning, with the settings of our recipes. Runs in LLaMA-Factory's own environment.

    python bench/peers/train_llamafactory.py --model DIR --train rows.jsonl --out DIR [--method full] …

Calls `llamafactory.train.tuner.run_exp`, which is what `llamafactory-cli train` calls. Writes what it trained into
--out (a PEFT adapter, or a model folder), and figures.json (record.py) beside it.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from llamafactory.train.tuner import run_exp
from record import Recorder, read_messages, write_figures
from transformers import TrainerCallback

BATCH = 8
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # as the model's own template says it


class Watch(TrainerCallback):
    """Notes the tokens of each micro-batch as the model is given them, and the losses."""

    def __init__(self, recorder):
        self.recorder, self.losses, self.trainable, self.hook = recorder, [], 0, None

    def on_train_begin(self, args, state, control, model=None, **rest):
        """Watch the model's input."""
        self.trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)

        def note(module, positional, given):
            if torch.is_grad_enabled():
                labels = given["labels"]
                self.recorder.micro_batch(
                    given["attention_mask"].bool().sum(), labels.numel(), (labels[:, 1:] != -100).sum()
                )

        self.hook = model.register_forward_pre_hook(note, with_kwargs=True)

    def on_log(self, args, state, control, logs=None, **rest):
        """Keep the logged losses."""
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def settings(options, folder):
    """The settings of the comparison, as `llamafactory-cli train` would read them from YAML; the rest is its default."""
    given = {
        "stage": "sft", "do_train": True, "model_name_or_path": str(options.model), "finetuning_type": options.method,
        "dataset": "rows", "dataset_dir": str(folder), "template": "smollm2", "default_system": SYSTEM, "cutoff_len": 512,
        "output_dir": str(options.out / "trained"), "per_device_train_batch_size": options.micro_batch,
        "gradient_accumulation_steps": BATCH // options.micro_batch, "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "weight_decay": 0.0, "max_grad_norm": 1.0,
        "num_train_epochs": 1, "max_steps": options.max_steps or -1, "bf16": options.precision == "bf16",
        "use_cpu": True, "dataloader_pin_memory": False, "flash_attn": "sdpa",
        "disable_gradient_checkpointing": not options.checkpointing,
        "save_strategy": "no", "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "seed": options.seed,
    }  # fmt: skip
    if options.method == "lora":
        given |= {"lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lora_target": "all"}
    return given


def write_rows(path, folder):
    """The rows and the dataset_info.json that LLaMA-Factory finds them by."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"messages": messages} for messages in read_messages(path)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info = {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": info}), encoding="utf-8")
    return len(rows)


def main():
    """Read the flags, train, write figures.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--train", required=True, help="a JSON Lines file with `messages`")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--max-steps", type=int, help="stop after so many steps; default: one epoch")
    parser.add_argument("--micro-batch", type=int, choices=(1, 2, 4, 8), default=BATCH, help="rows per forward pass")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing (the default; slower)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    count = write_rows(options.train, options.out / "data")
    recorder = Recorder()
    watch = Watch(recorder)
    sys.argv = sys.argv[:1]  # run_exp is given its settings; it would read the command line otherwise
    run_exp(settings(options, options.out / "data"), callbacks=[watch])
    watched = {"trainable_parameters": watch.trainable, "loss": watch.losses, "rows": count}
    chosen = {name: getattr(options, name) for name in ("method", "seed", "precision", "micro_batch", "checkpointing")}
    write_figures(
        options.out, {"tool": "llamafactory", **chosen, **watched, **recorder.figures(BATCH // options.micro_batch)}
    )


if __name__ == "__main__":
    main()
