"""A transformers model folder, opened again by transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.encode.template import Template


class FolderReplica:
    """A model with its own tokenizer, read from an artefact's files."""

    def __init__(self, model: Any, template: Template, runner: str) -> None:
        self.model = model.eval()
        self.template = template
        self.runner = runner

    def logits(self, ids: Sequence[int], start: int) -> Tensor:
        with torch.inference_mode():
            given = torch.tensor([list(ids)], device=self.model.device)
            out = self.model(input_ids=given, use_cache=False, logits_to_keep=len(ids) - start)
            logits: Tensor = out.logits[0].float()
            return logits

    def ids_of(self, text: str, *, special: bool) -> list[int]:
        tokenizer = self.template.backend if special else self.template.literal
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def template_text(self) -> str | None:
        return self.template.text

    def stop_ids(self) -> frozenset[int]:
        return self.template.stop_ids

    def close(self) -> None:
        self.model = None
