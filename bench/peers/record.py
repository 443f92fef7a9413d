"""What every peer's script writes down, the same way for all: when each optimiser step ended, and its tokens.

Imported by the scripts beside it, inside a peer's own environment; needs torch only.
"""

import json
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

VERSIONS = (
    "trl",
    "litgpt",
    "lightning",
    "llamafactory",
    "peft",
    "bitsandbytes",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
)


class Recorder:
    """Unix time at the end of each optimiser step of whatever optimiser runs, and the tokens of each micro-batch."""

    def __init__(self):
        self.ends = []
        self.useful, self.padded, self.targets = [], [], []
        register_optimizer_step_post_hook(lambda optimizer, arguments, keywords: self.ends.append(time.time()))

    def micro_batch(self, useful, padded, targets):
        """Note one micro-batch: tokens that are not padding, all of them, and those with a loss."""
        self.useful.append(int(useful))
        self.padded.append(int(padded))
        self.targets.append(int(targets))

    def figures(self, micro_batches):
        """Everything per step, with `micro_batches` of them in each."""

        def per_step(values):
            return [sum(values[i * micro_batches : (i + 1) * micro_batches]) for i in range(len(self.ends))]

        return {
            "ends": [round(end, 4) for end in self.ends],
            "tokens": per_step(self.useful), "padded_tokens": per_step(self.padded), "targets": per_step(self.targets),
            "threads": torch.get_num_threads(), "versions": versions(),
        }  # fmt: skip


def versions():
    """The versions of what is installed here."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_figures(folder, values):
    """Write figures.json."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "figures.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def read_messages(path):
    """The `messages` of every row of a JSON Lines file."""
    return [
        json.loads(line)["messages"] for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()
    ]
