"""Loading an encoder without a head, for vectors of texts, and how its hidden states become one vector."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from tutelage.errors import ModelError
from tutelage.models.load import load_tokenizer
from tutelage.models.safety import check_folder, read_object

MODULES, LENGTHS = "modules.json", "sentence_bert_config.json"  # what sentence-transformers writes
KNOWN = {"Transformer", "Pooling", "Normalize"}


@dataclass(frozen=True)
class Pooling:
    """One vector of a text's hidden states: their mean, or that of the first token; of length 1 if `normalised`.

    The defaults are those of all-MiniLM-L6-v2 (Reimers and Gurevych 2019, arXiv 1908.10084 §3, for the mean).
    """

    first: bool = False
    normalised: bool = True
    most_tokens: int = 1 << 30

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """[B, H] of the states [B, T, H] and the mask [B, T], which is 1 where a token stands, from each row's first on."""
        weights = mask.unsqueeze(-1).to(states.dtype)
        pooled = states[:, 0] if self.first else (states * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1) if self.normalised else pooled


def pooling_of(path: Path) -> Pooling:
    """What the files of sentence-transformers say, where the folder has them; else the mean, of length 1."""
    if not (path / MODULES).is_file():
        return Pooling()
    modules = _modules(path / MODULES)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    folder = next((path / str(m.get("path", "")) for m, kind in zip(modules, kinds) if kind == "Pooling"), None)
    pooling = read_object(folder / "config.json") if folder is not None else {}
    chosen = {key.removeprefix("pooling_mode_") for key, value in pooling.items() if value is True and "_mode_" in key}
    if isinstance(pooling.get("pooling_mode"), str):  # as newer releases write it
        chosen = {f"{pooling['pooling_mode']}_tokens".replace("cls_tokens", "cls_token")}
    if set(kinds) - KNOWN or len(chosen) != 1 or not chosen <= {"mean_tokens", "cls_token"}:
        raise ModelError(
            "this model makes its vectors in a way that is not known here", where=str(path / MODULES),
            why=f"modules {', '.join(kinds)}; pooling {', '.join(sorted(chosen)) or 'none'}",
            fix="choose a model that takes the mean or the first token",
        )  # fmt: skip
    lengths = read_object(path / LENGTHS) if (path / LENGTHS).is_file() else {}
    return Pooling(chosen == {"cls_token"}, "Normalize" in kinds, int(lengths.get("max_seq_length") or 1 << 30))


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        return [dict(module) for module in found]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelError("this is not the list of a model's modules", where=str(path), why=str(error)[:200]) from error


def load_encoder(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The body and the tokenizer of the encoder in a folder, in fp32 and eval mode."""
    check_folder(path)
    try:
        model = AutoModel.from_pretrained(
            str(path), dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            attn_implementation="sdpa", add_pooling_layer=False,
        )  # fmt: skip
    except Exception as error:  # whatever a loader raises on a damaged folder
        why = " ".join(str(error).split())[:300]
        raise ModelError("the encoder cannot be loaded", where=str(path), why=why, fix="name a BERT folder") from error
    return model.eval(), load_tokenizer(path)
