"""`--to merged` of a model with a task of its own: one safetensors folder with its head, adapter added, for `from_pretrained`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.encode.pairs import pair_tokens
from tutelage.errors import UsageError
from tutelage.evaluate.rows import recipe_of
from tutelage.export.label_parity import LabelParity, same_outputs, widest
from tutelage.export.prompts import held_out_rows
from tutelage.methods import lora
from tutelage.methods.opening import Located
from tutelage.methods.qlora import dequantise
from tutelage.models.load import load_tokenizer, save_model
from tutelage.runs import TASK, write_json
from tutelage.tasks.opening import OpenedTask, open_for_task, read_task

Say = Callable[[str], None]
# The output of the model itself, before any rule of a task: a head's scores, or logits of tokens.
OUTPUTS = ("scores", "own_logits", "logits")


@dataclass(frozen=True)
class Merging:
    """The trained model, its adapter beside its weights until they are written, and the rows that it is compared on."""

    opened: OpenedTask
    rows: Sequence[Any]
    held_out: bool
    most_tokens: int | None

    def trained(self) -> tuple[list[Any], list[Tensor]]:
        """Predictions for the rows and the outputs behind them, one tensor a layout."""
        return self.opened.predict(self.rows), _outputs(self.opened, self.rows)

    def write(self, folder: Path) -> None:
        """Config with label names or generation settings, weights, tokenizer, and the task."""
        model = self.opened.backbone.model
        dequantise(model)
        lora.merge(model)
        model.set_attn_implementation("sdpa")
        save_model(model, folder)
        self.opened.task.tokenizer.save_pretrained(folder)
        write_json(folder / TASK, self.opened.task.spec.model_dump(mode="json"))

    def measure(self, folder: Path, texts: Sequence[str], trained: tuple[list[Any], list[Tensor]]) -> LabelParity:
        """What the folder, opened from its files alone, predicts beside what was `trained`."""
        again = open_for_task(str(folder), precision="fp32", max_tokens=self.most_tokens)
        predictions, outputs = trained
        theirs = again.predict(self.rows)
        difference = max(widest(a, b) for a, b in zip(outputs, _outputs(again, self.rows), strict=True))
        ours, written = (
            pair_tokens(each, {}, 1 << 30) for each in (self.opened.task.tokenizer, load_tokenizer(folder))
        )
        same = sum(
            a == b and c == d
            for a, b, c, d in zip(ours.read(texts), written.read(texts), ours.write(texts), written.write(texts))
        )
        return LabelParity(
            "transformers", len(theirs), self.held_out, same_outputs(predictions, theirs), difference, len(texts), same,
            written=self.opened.task.head.kind == "seq2seq",
        )  # fmt: skip


def _outputs(opened: OpenedTask, rows: Sequence[Any]) -> list[Tensor]:
    task, plan = opened.task, replace(opened.plan, share_prefix=False)
    compute = next(getattr(opened.backbone, name) for name in OUTPUTS if hasattr(opened.backbone, name))
    with torch.no_grad():
        return [compute(layout).cpu() for layout in task.layouts(task.fit(rows).rows, plan)]


def open_for_merging(located: Located, *, rows: int, data: str | None, say: Say) -> tuple[Merging, str]:
    """The model with its task and what it is compared on."""
    spec = read_task(located.adapter or located.model)
    if located.adapter is not None and located.run is None:
        raise UsageError("an adapter alone has no task", where=located.name, fix="name the run folder")
    if spec is None:
        raise UsageError("an untouched model has nothing to merge", where=located.name, fix="name a run folder")
    opened = open_for_task(str(located.run or located.model), precision="fp32", merge=False, say=say)
    found, held_out = held_out_rows(located, spec, rows, data, say)
    recipe = recipe_of(str(located.run)) if located.run is not None else None
    return Merging(opened, found, held_out, recipe.max_tokens if recipe else None), spec.kind
