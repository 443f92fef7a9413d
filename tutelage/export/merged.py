"""The tuned model as one safetensors folder that `from_pretrained`, vLLM and everything else reads."""

from pathlib import Path

import torch

from tutelage.encode.template import Template
from tutelage.export.folder_replica import FolderReplica
from tutelage.export.types import EXPORTERS, Bounds, Replica, Source
from tutelage.methods.opening import load_located
from tutelage.models.load import load_model, load_tokenizer, save_model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Half precision rounds each weight to 8 or 11 bits; its bounds leave room for that, and for nothing else.
BOUNDS = {
    "fp32": Bounds(logit_difference=1e-4, agreement=1.0, loss=1e-4),
    "bf16": Bounds(agreement=0.97, loss=0.01),
    "fp16": Bounds(agreement=0.99, loss=0.005),
}


class Merged:
    """Adds the adapter to the weights in float32, then writes them in the wanted precision."""

    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16")

    def write(self, source: Source, folder: Path, precision: str) -> None:
        model = load_located(source.located, torch.float32).model.to(DTYPES[precision])
        model.generation_config.eos_token_id = sorted(source.template.stop_ids)
        model.generation_config.do_sample = False  # or transformers refuses to write a config that sets temperatures
        for unused in ("temperature", "top_p", "top_k", "min_p"):
            setattr(model.generation_config, unused, None)
        save_model(model, folder)
        save_tokenizer(source, folder)

    def reopen(self, source: Source, folder: Path) -> Replica:
        # Computed in float32 whatever the file holds, so that only the rounding of the weights is seen.
        model = load_model(folder, dtype=torch.float32)
        template = Template.of(load_tokenizer(folder), eos_ids=model.generation_config.eos_token_id)
        return FolderReplica(model, template, "transformers")

    def bounds(self, precision: str) -> Bounds:
        return BOUNDS[precision]


def save_tokenizer(source: Source, folder: Path) -> None:
    """The tokenizer's files, with the chat template that was trained."""
    source.tokenizer.chat_template = source.template.text
    source.tokenizer.save_pretrained(folder)


EXPORTERS.add("merged")(Merged())
