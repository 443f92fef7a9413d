"""The checks of run.py in TRL: SFTTrainer with its defaults on `messages` rows, in fp32 on the CPU."""

from watch import BATCH, LONG, SAVE_EVERY, SHORT, STEPS, Watch, parse, read, rows_file

options = parse()

from importlib.metadata import version  # noqa: E402

from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

case, watch = options.case, Watch(options.die_at)
resumable = case in ("whole", "killed", "resumed")
size = 1 if case in ("accumulated", "packed") else BATCH
config = SFTConfig(
    output_dir=str(options.out.parent / f"trl-{options.method}-{'killed' if case == 'resumed' else case}" / "trainer"),
    per_device_train_batch_size=size, gradient_accumulation_steps=BATCH if case == "accumulated" else 1,
    max_steps=STEPS if resumable else 1, packing=case == "packed", padding_free=case == "padding-free",
    max_length={"long": SHORT, "padding-free": None}.get(case, LONG),
    save_strategy="steps" if resumable else "no", save_steps=SAVE_EVERY, max_grad_norm=1e9, bf16=False, use_cpu=True,
    report_to="none", logging_steps=1, dataloader_pin_memory=False,
)  # fmt: skip
trainer = SFTTrainer(
    model=str(options.work / "model"), args=config,
    train_dataset=Dataset.from_list([{"messages": m} for m in read(rows_file(case), options.work)]),
    peft_config=LoraConfig() if options.method == "lora" else None,
)  # fmt: skip
collate = trainer.data_collator


def collated(examples):
    batch = collate(examples)
    watch.batch(batch["input_ids"], batch["labels"], batch.get("attention_mask"))
    return batch


trainer.data_collator = collated
trainer.train(resume_from_checkpoint=True if case == "resumed" else None)
watch.write(options.out, losses=[e["loss"] for e in trainer.state.log_history if "loss" in e], version=version("trl"))
