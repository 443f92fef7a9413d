"""The checks of run.py in LitGPT: finetune full and lora with their defaults on JSON rows, in fp32 on the CPU.

The model is made on the spot in LitGPT's own format, as its configurations go by name.
"""

import json
import shutil
import sys

from watch import BATCH, LONG, SAVE_EVERY, SHORT, STEPS, Watch, parse, read, rows_file

options = parse()

from importlib.metadata import version  # noqa: E402

import torch  # noqa: E402
from litgpt.args import EvalArgs, TrainArgs  # noqa: E402
from litgpt.config import Config  # noqa: E402
from litgpt.data import JSON  # noqa: E402
from litgpt.finetune import full, lora  # noqa: E402
from litgpt.model import GPT  # noqa: E402
from litgpt.utils import save_config  # noqa: E402

case, watch = options.case, Watch(options.die_at)
resumable = case in ("whole", "killed", "resumed")


class Looked(JSON):
    """LitGPT's JSON data; notes what is collated for training."""

    def train_dataloader(self):
        """LitGPT's own loader, its collate function watched."""
        loader = super().train_dataloader()
        collate = loader.collate_fn

        def collated(samples):
            for sample in samples:
                watch.row(sample["input_ids"], sample["labels"])
            return collate(samples)

        loader.collate_fn = collated
        return loader


def tiny_checkpoint(source, folder):
    """A random model in LitGPT's format with the tokenizer in `source`."""
    if (folder / "lit_model.pth").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    config = Config(
        name="tiny", block_size=LONG, vocab_size=512, padded_vocab_size=512, n_layer=2, n_head=4, n_embd=48,
        n_query_groups=2, rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP", intermediate_size=96,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.save(GPT(config).state_dict(), folder / "lit_model.pth")
    save_config(config, folder)
    return folder


checkpoint = tiny_checkpoint(options.work / "model", options.work / "litgpt-tiny")
data = options.out / "data"
data.mkdir(parents=True, exist_ok=True)
rows = [{"instruction": m[-2]["content"], "output": m[-1]["content"]} for m in read(rows_file(case), options.work)]
(data / "train.json").write_text(json.dumps(rows))
(data / "val.json").write_text(json.dumps(rows[:1]))
sys.argv = ["litgpt", str(checkpoint)]  # stored beside the result, and parsed for that
arguments = {
    "checkpoint_dir": checkpoint, "devices": 1, "precision": "32-true", "data": Looked(data, num_workers=0),
    "out_dir": options.out.parent / f"litgpt-{options.method}-{'killed' if case == 'resumed' else case}" / "trainer",
    "train": TrainArgs(
        save_interval=SAVE_EVERY if resumable else None, global_batch_size=BATCH, max_steps=STEPS if resumable else 1,
        micro_batch_size=1 if case == "accumulated" else BATCH, lr_warmup_steps=2, epochs=1000,
        max_seq_length=SHORT if case == "long" else None,
    ),
    "eval": EvalArgs(interval=10**9, max_new_tokens=1, max_iters=1, final_validation=False),
}  # fmt: skip
if options.method == "lora":
    lora.setup(**arguments)
else:
    full.setup(**arguments, resume=case == "resumed")
watch.write(options.out, losses=[], version=version("litgpt"))
