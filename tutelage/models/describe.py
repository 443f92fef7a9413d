"""What a model is, from config.json and the headers of its weights, or a GGUF file's. No weight is read, no torch imported."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tutelage.errors import MissingInputError, ModelError
from tutelage.models.gguf_convert import Conversion, plan_conversion
from tutelage.models.safetensors_file import StoredTensor, read_header, shards
from tutelage.models.safety import read_object
from tutelage.models.types import ModelInfo

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|shared|tok_embeddings)\.weight$")
HEADS = re.compile(r"(^|\.)(lm_head|embed_out|output)\.weight$")
BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias|position_ids)$")
LICENCE = re.compile(r"^licen[sc]e:\s*[\"']?([\w.-]+)", re.MULTILINE)


def describe(path: Path) -> ModelInfo:
    """The model in the folder or GGUF file `path`. A tied output head stored beside its embedding counts once."""
    if path.is_file():
        return _describe_gguf(plan_conversion(path))
    if not path.is_dir():
        raise MissingInputError("there is no such model folder", where=str(path))
    config = read_object(path / "config.json")
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    files = shards(path)
    if not files:
        raise ModelError("this folder has no safetensors weights", where=str(path), fix="fetch the model again")
    tensors = [tensor for file in files for tensor in read_header(file) if not BUFFERS.search(tensor.name)]
    tied, counted = _without_tied(config, tensors)
    dtypes: Counter[str] = Counter()
    for tensor in counted:
        dtypes[DTYPES.get(tensor.dtype, tensor.dtype.lower())] += tensor.elements
    embedding = next((tensor for tensor in counted if EMBEDDINGS.search(tensor.name)), None)
    architectures = config.get("architectures")
    return ModelInfo(
        path=path,
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "unknown",
        model_type=str(config.get("model_type", "unknown")),
        parameters=sum(tensor.elements for tensor in counted),
        weight_bytes=sum(tensor.stop - tensor.start for tensor in counted),
        dtypes=dict(dtypes),
        vocabulary=_size(path, text, "vocab_size") or (embedding.shape[0] if embedding else 0),
        hidden=_size(path, text, "hidden_size", "n_embd", "d_model") or 0,
        layers=_size(path, text, "num_hidden_layers", "n_layer", "num_layers") or 0,
        context=_size(path, text, "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
        tied_embeddings=tied,
        has_chat_template=_has_template(path),
        licence=_licence(path),
    )


def stored_dtypes(folder: Path) -> set[str | None]:
    """The dtypes of the weights in a model folder; where none are here yet, the one that config.json promises."""
    files = shards(folder)
    if files:
        return {DTYPES.get(tensor.dtype) for file in files for tensor in read_header(file)}
    config = read_object(folder / "config.json")
    said = config.get("dtype", config.get("torch_dtype"))
    return {said if isinstance(said, str) else None}


def _describe_gguf(made: Conversion) -> ModelInfo:
    config, licence = made.config, made.header.metadata.get("general.license")
    dtypes: Counter[str] = Counter()
    for planned in made.plan.values():
        kind = planned.source.kind.name
        dtypes[DTYPES.get(kind, kind.lower())] += math.prod(planned.shape)
    return ModelInfo(
        path=made.header.path,
        architecture=config["architectures"][0],
        model_type=config["model_type"],
        parameters=sum(dtypes.values()),
        weight_bytes=sum(planned.source.nbytes for planned in made.plan.values()),
        dtypes=dict(dtypes),
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        context=config["max_position_embeddings"],
        tied_embeddings=config["tie_word_embeddings"],
        has_chat_template=made.tokenizer.chat_template is not None,
        licence=licence if isinstance(licence, str) else None,
    )


def _without_tied(config: dict[str, Any], tensors: list[StoredTensor]) -> tuple[bool, list[StoredTensor]]:
    """Whether head and embedding are one tensor, and the tensors without the second copy.

    A config that says nothing means the class's default; then a head that is not stored is a tied one.
    """
    heads = [tensor for tensor in tensors if HEADS.search(tensor.name)]
    shapes = {tensor.shape for tensor in tensors if EMBEDDINGS.search(tensor.name)}
    said = config.get("tie_word_embeddings")
    tied = said if isinstance(said, bool) else not heads
    copies = {tensor.name for tensor in heads if tensor.shape in shapes} if tied else set()
    return tied, [tensor for tensor in tensors if tensor.name not in copies]


def _size(path: Path, config: dict[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise ModelError(
                f"`{key}` must be a whole number above 0", where=f"{path / 'config.json'}: {key}", why=repr(value)[:100],
                fix="fetch config.json again",
            )  # fmt: skip
        return value
    return None


def _has_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file():
        return True
    settings = path / "tokenizer_config.json"
    return settings.is_file() and bool(read_object(settings).get("chat_template"))


def _licence(path: Path) -> str | None:
    receipt, card = path / "tutelage.json", path / "README.md"
    if receipt.is_file():
        licence = read_object(receipt).get("licence")
        if isinstance(licence, str):
            return licence
    if card.is_file():
        with open(card, encoding="utf-8", errors="replace") as file:
            head = file.read(8192)
        match = LICENCE.search(head.split("\n---", 1)[0]) if head.startswith("---") else None
        return match[1] if match else None
    return None
