"""What llama.cpp must be told of each family of models: its sizes, its rotations, and how its weights are stored there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import MODEL_ARCH, RopeScalingType
from numpy.typing import NDArray
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.models.gguf_rope import llama3_factors


@dataclass(frozen=True)
class Family:
    """One of llama.cpp's architectures."""

    arch: MODEL_ARCH
    rotates_neighbours: bool = False  # q and k rows are reordered: llama.cpp rotates (0, 1), transformers the halves
    norm_offset: float = 0.0  # Gemma's norms multiply by 1 + weight, llama.cpp's by weight
    details: Callable[[GGUFWriter, Any], None] = lambda writer, config: None


def _refuse(what: str, why: str) -> ModelError:
    return ModelError(f"this model cannot be written as GGUF: {what}", why=why, fix="--to merged")


def _no_window(writer: GGUFWriter, config: Any) -> None:
    windowed = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if getattr(config, "sliding_window", None) is not None and (windowed or not hasattr(config, "layer_types")):
        raise _refuse("its attention has a sliding window", "llama.cpp's architecture of this family has none")


def _gemma2(writer: GGUFWriter, config: Any) -> None:
    # llama.cpp has both rules built in: every second layer is windowed, and q is scaled by the head's size
    # (by hidden / heads in the 27B model, which is told by its layer count).
    scale = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == 46 else config.head_dim
    _expect("query_pre_attn_scalar", config.query_pre_attn_scalar, scale)
    _pattern(config, 2)
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def _gemma3(writer: GGUFWriter, config: Any) -> None:
    scale = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == 62 else config.head_dim
    _expect("query_pre_attn_scalar", config.query_pre_attn_scalar, scale)
    _expect("final_logit_softcapping", getattr(config, "final_logit_softcapping", None), None)
    _pattern(config, 6)
    writer.add_sliding_window(config.sliding_window)


def _pattern(config: Any, period: int) -> None:
    kinds = [
        "full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(config.num_hidden_layers)
    ]
    if list(config.layer_types) != kinds:
        raise _refuse("its windowed layers are not where llama.cpp expects them", f"every {period}th layer sees all")


def _expect(key: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise _refuse(f"its `{key}` is {found}", f"llama.cpp computes with {wanted}")


def _smollm3(writer: GGUFWriter, config: Any) -> None:
    kinds = [int((i + 1) % 4 != 0) for i in range(config.num_hidden_layers)]
    _expect("no_rope_layers", list(config.no_rope_layers), kinds)
    _no_window(writer, config)


FAMILIES: dict[str, Family] = {
    "llama": Family(MODEL_ARCH.LLAMA, rotates_neighbours=True),
    "mistral": Family(MODEL_ARCH.LLAMA, rotates_neighbours=True, details=_no_window),
    "smollm3": Family(MODEL_ARCH.SMOLLM3, rotates_neighbours=True, details=_smollm3),
    "qwen2": Family(MODEL_ARCH.QWEN2, details=_no_window),
    "qwen3": Family(MODEL_ARCH.QWEN3, details=_no_window),
    "gemma": Family(MODEL_ARCH.GEMMA, norm_offset=1.0),
    "gemma2": Family(MODEL_ARCH.GEMMA2, norm_offset=1.0, details=_gemma2),
    "gemma3_text": Family(MODEL_ARCH.GEMMA3, norm_offset=1.0, details=_gemma3),
}


def family_of(config: Any) -> Family:
    """The family of a model's config; one that is not known is a ModelError."""
    if config.model_type not in FAMILIES:
        raise _refuse(f"its type is {config.model_type}", f"known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[config.model_type]


def write_sizes(writer: GGUFWriter, family: Family, config: Any, vocabulary: int) -> None:
    """The keys that every family has, then the family's own."""
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(vocabulary)
    writer.add_rope_dimension_count(head)
    _write_rope(writer, config)
    family.details(writer, config)


def _write_rope(writer: GGUFWriter, config: Any) -> None:
    rope = rope_of(config)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif kind not in ("default", "llama3"):
        raise _refuse(f"its rotations are scaled by the rule {kind}", "default, linear and llama3 are written")


def rope_of(config: Any) -> dict[str, Any]:
    """The rotation's parameters; for models with two kinds of layers, those of the layers that see everything."""
    rope = dict(config.rope_parameters or {})
    return dict(rope.get("full_attention", rope))


def rope_factors(config: Any) -> NDArray[np.float32] | None:
    """[head / 2]: by how much each rotation of a Llama 3 model is slowed down; None for other models."""
    rope = rope_of(config)
    if rope.get("rope_type") != "llama3":
        return None
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return llama3_factors(rope, head).astype(np.float32)


def stored(name: str, value: Tensor, family: Family, config: Any) -> Tensor:
    """The tensor `name` of transformers as llama.cpp stores it, in float32."""
    value = value.detach().to(torch.float32)
    if family.rotates_neighbours and ".q_proj." in name:
        return permuted(value, config.num_attention_heads)
    if family.rotates_neighbours and ".k_proj." in name:
        return permuted(value, config.num_key_value_heads)
    return value + family.norm_offset if family.norm_offset and name.endswith("norm.weight") else value


def permuted(value: Tensor, heads: int) -> Tensor:
    """Rows of q or k in llama.cpp's order; the inverse of what reading a GGUF file does."""
    rows = value.shape[0]
    return value.reshape(heads, 2, rows // heads // 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
