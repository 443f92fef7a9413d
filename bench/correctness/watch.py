"""What every probe notes, the same way for all tools; imported by the probes, inside each tool's own environment.

Two hooks of torch watch whatever optimiser the tool steps: the first step's gradient and the last step's weights are
kept, and with --die-at N the process ends at once, as by SIGKILL, before the Nth update.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

BATCH, STEPS, SAVE_EVERY = 8, 6, 2
LONG = 1024  # tokens that everything fits into
SHORT = 256  # the limit in the check of over-long rows
CASES = (
    "batch",
    "accumulated",
    "packed",
    "neat-packed",
    "padding-free",
    "tokens",
    "long",
    "whole",
    "killed",
    "resumed",
)


class Watch:
    """Gradient of the first step, weights after the last one, and the rows that were given to the model."""

    def __init__(self, die_at=None):
        self.die_at, self.steps, self.gradient, self.weights, self.rows = die_at, 0, None, None, []
        register_optimizer_step_pre_hook(self._before)
        register_optimizer_step_post_hook(self._after)

    def _before(self, optimizer, arguments, keywords):
        self.steps += 1
        if self.die_at == self.steps:
            os._exit(9)
        if self.gradient is None:
            self.gradient = flat([p.grad for p in parameters(optimizer) if p.grad is not None])

    def _after(self, optimizer, arguments, keywords):
        self.weights = flat([p.detach() for p in parameters(optimizer)])

    def batch(self, ids, labels, mask=None):
        """Note the rows of one padded batch: their ids and labels without padding."""
        for at in range(len(ids)):
            keep = mask[at].bool() if mask is not None else torch.ones_like(ids[at], dtype=torch.bool)
            self.row(ids[at][keep], labels[at][keep])

    def row(self, ids, labels):
        """Note one row."""
        self.rows.append({"ids": [int(i) for i in ids], "labels": [int(i) for i in labels]})

    def write(self, folder, **more):
        """result.json and tensors.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {n: t for n, t in (("gradient", self.gradient), ("weights", self.weights)) if t is not None}
        if tensors:
            save_file(tensors, folder / "tensors.safetensors")
        (folder / "result.json").write_text(json.dumps({"steps": self.steps, "rows": self.rows, **more}))


def parameters(optimizer):
    """All parameters of an optimiser, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def flat(tensors):
    """One fp32 vector."""
    return torch.cat([tensor.detach().reshape(-1).float().clone() for tensor in tensors])


def read(name, work):
    """The `messages` of every row of the file that a case uses."""
    return [json.loads(line)["messages"] for line in (work / name).read_text(encoding="utf-8").splitlines()]


def rows_file(case):
    """Which rows a case uses."""
    return {"long": "long.jsonl", "whole": "many.jsonl", "killed": "many.jsonl", "resumed": "many.jsonl"}.get(
        case, "eight.jsonl"
    )


def parse():
    """The flags of every probe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True, choices=CASES)
    parser.add_argument("--work", required=True, type=Path, help="the folder with the tiny model and the rows")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--method", choices=("lora", "full"), default="full")
    parser.add_argument("--die-at", type=int)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    options.out.mkdir(parents=True, exist_ok=True)
    return options
