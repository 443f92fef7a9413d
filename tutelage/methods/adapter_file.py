"""PEFT's adapter folder as a file format: what is read, and which settings are refused."""

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tutelage.errors import MissingInputError, ModelError

PREFIX = "base_model.model."
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings that we compute, or that do not change what an adapter computes once it is trained. Any other one that is
# set, of this PEFT or a later one, would mean another model than ours: the adapter is refused.
INERT = {
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "use_rslora", "bias",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "revision", "auto_mapping", "peft_version", "loftq_config", "eva_config", "corda_config",
    "megatron_config", "megatron_core", "modules_to_save", "runtime_config", "ensure_weight_tying", "qalora_group_size",
    "use_dora",
}  # fmt: skip
# PiSSA's part of the weights can be computed again. Others (PiSSA by random iteration, OLoRA, CorDA, LoftQ) take theirs out
# of the base weights, which a plain base does not lack.
HEADED = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # their heads are saved whole; elsewhere it would be embeddings
OWN_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "pissa")
ENDS = (".lora_A.weight", ".lora_B.weight")
MAGNITUDES = ".lora_magnitude_vector"


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json and the tensors of a PEFT LoRA folder; settings we do not compute are refused."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise MissingInputError(f"this is not a PEFT adapter: it needs {CONFIG} and {WEIGHTS}", where=str(folder))
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        if int(config["r"]) < 1 or not math.isfinite(float(config["lora_alpha"])):
            raise ValueError("r must be at least 1, and lora_alpha a number")
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ModelError("this adapter cannot be read", where=str(folder), why=str(error)) from error
    if config.get("peft_type") != "LORA":
        raise ModelError(f"this is a {config.get('peft_type')} adapter, not LoRA", where=str(folder / CONFIG))
    used = [key for key, value in config.items() if key not in INERT and value not in (None, False, {}, [])]
    if config.get("init_lora_weights", True) not in OWN_INITIALISATIONS:
        used.append("init_lora_weights")
    if config.get("modules_to_save") and config.get("task_type") not in HEADED:
        used.append("modules_to_save")
    if config.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise ModelError(f"this adapter uses {', '.join(used)}, which is not supported", where=str(folder / CONFIG))
    heads = tuple(f"{PREFIX}{name}." for name in config.get("modules_to_save") or ())
    inner = tuple(f".{name}." for name in config.get("modules_to_save") or ())
    strange = [
        key
        for key in tensors
        if not (key.startswith(PREFIX) and key.endswith((*ENDS, MAGNITUDES) if config.get("use_dora") else ENDS))
        and not (key.startswith(heads) or any(name in key for name in inner))
    ]
    if strange:
        raise ModelError(
            f"this adapter holds tensors other than LoRA's, e.g. `{strange[0]}`", where=str(folder / WEIGHTS)
        )
    return config, tensors
