"""TRL's SFTTrainer, with the settings of our recipes. Runs in TRL's own environment (requirements-trl.txt).

    python bench/peers/train_trl.py --model DIR --train rows.jsonl --out DIR [--method full] [--precision bf16] …

Writes what it trained into --out (a PEFT adapter, or a model folder), and figures.json (record.py) beside it.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from datasets import Dataset
from peft import LoraConfig
from record import Recorder, read_messages, write_figures
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

BATCH = 8
PRECISIONS = {  # (dtype of the weights, autocast)
    "fp32": (torch.float32, False),
    "autocast": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "bf16-autocast": (torch.bfloat16, True),
}


class Counter:
    """TRL's own collator; notes the tokens of each micro-batch."""

    def __init__(self, collator, recorder):
        self.collator, self.recorder = collator, recorder

    def __call__(self, examples):
        batch = self.collator(examples)
        labels, positions = batch["labels"], batch.get("position_ids")
        first = (positions == 0) if positions is not None else torch.zeros_like(labels, dtype=torch.bool)
        first[:, 0] = True  # nothing before it predicts the first token of a row
        useful = batch["attention_mask"].sum() if "attention_mask" in batch else batch["input_ids"].numel()
        self.recorder.micro_batch(useful, batch["input_ids"].numel(), ((labels != -100) & ~first).sum())
        return batch


def read_rows(path):
    """Prompt-completion rows: the last message is the completion, as TRL's completion-only loss wants them."""
    return Dataset.from_list([{"prompt": m[:-1], "completion": m[-1:]} for m in read_messages(path)])


def load_tokenizer(model):
    """The tokenizer as tokenizer.json says; AutoTokenizer of transformers 5 rebuilds SmolLM2's splitting rule wrongly."""
    return PreTrainedTokenizerFast.from_pretrained(model, local_files_only=True)


def config(options):
    """The settings of the comparison; everything else is TRL's default."""
    return SFTConfig(
        output_dir=str(options.out / "trainer"), seed=options.seed,
        num_train_epochs=1, max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.micro_batch, gradient_accumulation_steps=BATCH // options.micro_batch,
        learning_rate=options.learning_rate, lr_scheduler_type="cosine", warmup_steps=0.03, weight_decay=0.0,
        max_grad_norm=1.0, completion_only_loss=True, packing=False, padding_free=options.padding_free,
        max_length=None if options.padding_free else 512,  # TRL refuses both together; no row of ours is longer
        bf16=PRECISIONS[options.precision][1], fp16=False, use_cpu=True,
        gradient_checkpointing=options.checkpointing, torch_compile=options.compile,
        dataloader_pin_memory=False, save_strategy="no", logging_steps=1, report_to="none", disable_tqdm=True,
    )  # fmt: skip


def make_trainer(options):
    """An SFTTrainer over the rows: full, or LoRA rank 16 alpha 32 on all linear layers, drawn with --seed; QLoRA on a base in
    NF4 with double quantisation and bf16 products."""
    set_seed(options.seed)
    tokenizer = load_tokenizer(options.model)
    dtype = PRECISIONS[options.precision][0]
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    stored = {"quantization_config": nf4, "device_map": {"": "cpu"}} if options.method == "qlora" else {}
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, local_files_only=True, **stored)
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return SFTTrainer(
        model=model, args=config(options), train_dataset=read_rows(options.train), processing_class=tokenizer,
        peft_config=None if options.method == "full" else lora,
    )  # fmt: skip


def train(options):
    """Train, save, and return the figures."""
    recorder = Recorder()
    trainer = make_trainer(options)
    trainer.data_collator = Counter(trainer.data_collator, recorder)
    trainer.train()
    trainer.save_model(str(options.out))
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    return {
        "tool": "trl", "method": options.method, "seed": options.seed, "precision": options.precision,
        "micro_batch": options.micro_batch, "gradient_checkpointing": options.checkpointing,
        "torch_compile": options.compile, "padding_free": options.padding_free, "rows": len(trainer.train_dataset),
        "trainable_parameters": sum(p.numel() for p in trained), "trainable_dtypes": sorted({str(p.dtype) for p in trained}),
        "loss": [entry["loss"] for entry in logs], "learning_rate": [entry["learning_rate"] for entry in logs],
        **recorder.figures(BATCH // options.micro_batch),
    }  # fmt: skip


def main():
    """Read the flags, train, write figures.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--train", required=True, help="a JSON Lines file with `messages`")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--method", choices=("lora", "qlora", "full"), default="lora")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument("--max-steps", type=int, help="stop after so many steps; default: one epoch")
    parser.add_argument("--micro-batch", type=int, choices=(1, 2, 4, 8), default=BATCH, help="rows per forward pass")
    parser.add_argument("--padding-free", action="store_true", help="the rows of a micro-batch on one axis")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing (TRL's default; slower)")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--dump-tokens", type=Path, help="write the tokenised rows there, and do not train")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.dump_tokens:
        rows = make_trainer(options).train_dataset
        options.dump_tokens.write_text(json.dumps([{"ids": r["input_ids"], "labels": r["labels"]} for r in rows]))
        return
    write_figures(options.out, train(options))


if __name__ == "__main__":
    main()
