"""The checks of run.py in LLaMA-Factory: run_exp (`llamafactory-cli train`) with its defaults, in fp32 on the CPU."""

import json
import sys

from watch import BATCH, LONG, SAVE_EVERY, SHORT, STEPS, Watch, parse, read, rows_file

options = parse()

from importlib.metadata import version  # noqa: E402

from llamafactory.train.tuner import run_exp  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

case, watch = options.case, Watch(options.die_at)
resumable = case in ("whole", "killed", "resumed")
packed = case in ("packed", "neat-packed")
losses = []


class Look(TrainerCallback):
    """Notes what the model is given, and the losses."""

    def on_train_begin(self, args, state, control, model=None, **rest):
        """Watch the model's input."""

        def note(module, positional, given):
            mask = given.get("attention_mask")
            watch.batch(given["input_ids"], given["labels"], mask if mask is not None and mask.dim() == 2 else None)

        model.register_forward_pre_hook(note, with_kwargs=True)

    def on_log(self, args, state, control, logs=None, **rest):
        """Keep the logged losses."""
        if logs and "loss" in logs:
            losses.append(logs["loss"])


data = options.out / "data"
data.mkdir(parents=True, exist_ok=True)
rows = [{"messages": messages} for messages in read(rows_file(case), options.work)]
(data / "rows.json").write_text(json.dumps(rows))
tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
info = {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
(data / "dataset_info.json").write_text(json.dumps({"rows": info}))
trainer = options.out.parent / f"llamafactory-{options.method}-{'killed' if case == 'resumed' else case}" / "trainer"
settings = {
    "stage": "sft", "do_train": True, "model_name_or_path": str(options.work / "model"), "finetuning_type": options.method,
    "dataset": "rows", "dataset_dir": str(data), "template": "smollm2", "output_dir": str(trainer),
    "cutoff_len": SHORT if case == "long" else LONG, "max_grad_norm": 1e9, "use_cpu": True, "report_to": "none",
    "per_device_train_batch_size": 1 if case == "accumulated" or packed else BATCH, "logging_steps": 1,
    "gradient_accumulation_steps": BATCH if case == "accumulated" else 1, "max_steps": STEPS if resumable else 1,
    "save_strategy": "steps" if resumable else "no", "save_steps": SAVE_EVERY, "dataloader_pin_memory": False,
}  # fmt: skip
if packed:
    settings |= {"packing": True, "neat_packing": case == "neat-packed"}
if case == "resumed":
    last = max(trainer.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    settings["resume_from_checkpoint"] = str(last)
sys.argv = sys.argv[:1]
run_exp(settings, callbacks=[Look()])
watch.write(options.out, losses=losses, version=version("llamafactory"))
