"""The peer: TRL's SFTTrainer with LoRA on a chat file, completion only. Runs in its own environment (requirements-trl.txt).

Writes the PEFT adapter into --out and figures.json beside it: per step the seconds (batch to updated weights, loading
not included), the useful tokens (no padding), the loss and the learning rate.
"""

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer


class Timer(TrainerCallback):
    """Seconds of each optimiser step, from its first micro-batch to the updated weights."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, args, state, control, **rest):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **rest):
        self.seconds.append(time.perf_counter() - self.start)


class Counter:
    """TRL's own collator; counts the tokens that are not padding, and all of them, of each micro-batch."""

    def __init__(self, collator):
        self.collator = collator
        self.useful, self.padded, self.targets = [], [], []

    def __call__(self, examples):
        batch = self.collator(examples)
        self.useful.append(int(batch["attention_mask"].sum()))
        self.padded.append(batch["input_ids"].numel())
        self.targets.append(int((batch["labels"][:, 1:] != -100).sum()))
        return batch


def read_rows(path):
    """Prompt-completion rows: the last message is the completion, as TRL's completion-only loss wants them."""
    rows = [
        json.loads(line)["messages"] for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    return Dataset.from_list([{"prompt": messages[:-1], "completion": messages[-1:]} for messages in rows])


def load_tokenizer(model):
    """The tokenizer as tokenizer.json says; AutoTokenizer of transformers 5 rebuilds SmolLM2's splitting rule wrongly."""
    return PreTrainedTokenizerFast.from_pretrained(model, local_files_only=True)


def config(options):
    """The settings of the comparison; everything else is TRL's default."""
    return SFTConfig(
        output_dir=str(options.out / "trainer"), seed=options.seed,
        num_train_epochs=1, max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.micro_batch, gradient_accumulation_steps=8 // options.micro_batch,
        learning_rate=2e-4, lr_scheduler_type="cosine", warmup_steps=0.03, weight_decay=0.0, max_grad_norm=1.0,
        max_length=512, completion_only_loss=True, packing=False,
        bf16=options.precision == "bf16", fp16=False, use_cpu=True,
        gradient_checkpointing=options.checkpointing, torch_compile=options.compile,
        dataloader_pin_memory=False, save_strategy="no", logging_steps=1, report_to="none", disable_tqdm=True,
    )  # fmt: skip


def make_trainer(options):
    """An SFTTrainer over the rows, LoRA rank 16 alpha 32 on all linear layers, drawn with --seed."""
    set_seed(options.seed)
    tokenizer = load_tokenizer(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, local_files_only=True)
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return SFTTrainer(
        model=model, args=config(options), train_dataset=read_rows(options.train), processing_class=tokenizer,
        peft_config=lora,
    )  # fmt: skip


def grouped(values, size, count):
    """Sums of `size` neighbours: micro-batches to the first `count` steps."""
    return [sum(values[i * size : (i + 1) * size]) for i in range(count)]


def train(options):
    """Train, save the adapter, and return the figures."""
    trainer = make_trainer(options)
    timer, counter = Timer(), Counter(trainer.data_collator)
    trainer.data_collator = counter
    trainer.add_callback(timer)
    trainer.train()
    trainer.save_model(str(options.out))
    steps, size = len(timer.seconds), 8 // options.micro_batch
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "tool": "trl", "seed": options.seed, "precision": options.precision, "micro_batch": options.micro_batch,
        "gradient_checkpointing": options.checkpointing, "torch_compile": options.compile,
        "threads": torch.get_num_threads(), "rows": len(trainer.train_dataset),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "seconds": timer.seconds, "useful_tokens": grouped(counter.useful, size, steps),
        "padded_tokens": grouped(counter.padded, size, steps), "target_tokens": grouped(counter.targets, size, steps),
        "loss": [entry["loss"] for entry in logs], "learning_rate": [entry["learning_rate"] for entry in logs],
        "versions": {name: version(name) for name in ("trl", "torch", "transformers", "peft", "accelerate", "datasets")},
    }  # fmt: skip


def main():
    """Read the flags, train, write figures.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--train", required=True, help="a JSON Lines file with `messages`")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: weights fp32, autocast")
    parser.add_argument("--max-steps", type=int, help="stop after so many steps; default: one epoch")
    parser.add_argument("--micro-batch", type=int, choices=(1, 2, 4, 8), default=8, help="rows per forward pass")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing (TRL's default; slower)")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--dump-tokens", type=Path, help="write the tokenised rows there, and do not train")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.dump_tokens:
        rows = make_trainer(options).train_dataset
        options.dump_tokens.write_text(json.dumps([{"ids": r["input_ids"], "labels": r["labels"]} for r in rows]))
        return
    (options.out / "figures.json").write_text(json.dumps(train(options), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
