"""Whether config.json and the weights beside it can belong together, before memory is taken for what the config says.

A loader draws the weights that a file does not hold. So a vocabulary of 16 million, or 4,000 layers, in a damaged config
would take gigabytes and minutes before anything is refused. The model is therefore built without memory first.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from tutelage.errors import ModelError
from tutelage.models.safetensors_file import StoredTensor, read_header, shards
from tutelage.models.safety import read_object

SIZES = ("vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size", "n_positions")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
SLACK = 1 << 20  # elements: heads that a task adds, buffers


def check_fit(path: Path) -> None:
    """Nothing, or a ModelError with the key of config.json that says another model than the weights hold."""
    config = read_object(path / "config.json")
    tensors = [tensor for file in shards(path) for tensor in read_header(file)]
    longest = max((size for tensor in tensors for size in tensor.shape), default=0)
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for keys, most, of in ((SIZES, longest, "rows or columns"), (LAYERS, len(tensors), "tensors")):
            for key in keys:
                if type(part.get(key)) is int and part[key] > most:
                    raise _other(path, key, f"it says {part[key]}, and the weights have at most {most} {of}")
    _check_count(path, tensors)


def _check_count(path: Path, tensors: list[StoredTensor]) -> None:
    stored = sum(tensor.elements for tensor in tensors)
    wanted, key = _wanted(path)
    if wanted > 4 * stored + SLACK:  # a tied tensor may be stored once, an expert's in parts
        raise _other(path, key, f"its model has {wanted:,} parameters, and the weights {stored:,}")


def _wanted(path: Path) -> tuple[int, str]:
    """How many parameters the body of the config's model has, and by what it says so."""
    try:
        config: Any = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever a damaged config makes of it
        why = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise ModelError(
            "config.json does not describe a model",
            where=str(path / "config.json"),
            why=why,
            fix="fetch config.json again",
        ) from error
    return sum(parameter.numel() for parameter in model.parameters()), "model_type"


def _other(path: Path, key: str, why: str) -> ModelError:
    return ModelError(
        "config.json says another model than the weights beside it", where=f"{path / 'config.json'}: {key}", why=why,
        fix="fetch config.json and the weights again, both of one revision",
    )  # fmt: skip
