"""The adapter alone, in PEFT's format: small, and loaded by PEFT, vLLM and TRL beside its base model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from tutelage.errors import UsageError
from tutelage.export.folder_replica import FolderReplica
from tutelage.export.merged import save_tokenizer
from tutelage.export.types import EXPORTERS, Bounds, Replica, Source
from tutelage.methods.adapter_file import CONFIG, WEIGHTS
from tutelage.methods.opening import load_located
from tutelage.methods.qlora import QUANTISATION


class PeftAdapter:
    """Copies the trained adapter and opens it again over its base model."""

    precisions: tuple[str, ...] = ("fp32",)

    def write(self, source: Source, folder: Path, precision: str) -> None:
        adapter = source.located.adapter
        if adapter is None:
            raise UsageError(
                "this model has no adapter", where=source.located.name, why="every weight was trained",
                fix=f"tutelage export {source.located.name} --to merged",
            )  # fmt: skip
        if source.located.quantisation is not None and source.located.quantisation.blocks is not None:
            raise UsageError(
                "this adapter has no base that PEFT could load", where=source.located.name,
                why="it learnt on weights that were calibrated, which only lie in its own folder",
                fix=f"tutelage export {source.located.name} --to merged",
            )  # fmt: skip
        config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name in (WEIGHTS, QUANTISATION):
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, folder / name)
        save_tokenizer(source, folder)

    def reopen(self, source: Source, folder: Path) -> Replica:
        # merged, as by PEFT's merge_and_unload, so that both ways of running it are covered; a quantised base stays one
        opened = load_located(replace(source.located, adapter=folder, tokenizer=folder), torch.float32)
        return FolderReplica(opened.model, opened.template, "transformers, adapter merged")

    def bounds(self, precision: str) -> Bounds:
        return Bounds(logit_difference=1e-4, agreement=1.0, loss=1e-4)


EXPORTERS.add("peft")(PeftAdapter())
