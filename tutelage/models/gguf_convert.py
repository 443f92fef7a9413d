"""A GGUF file as a `from_pretrained` folder: weights, config and tokenizer.

The weights are written in float32. A Q4_1 value is scale * q + minimum with float16 scale and minimum, which needs more
bits than bfloat16 or float16 has: float32 keeps every value as the file means it, for 4 bytes a parameter.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray

from tutelage.errors import ModelError
from tutelage.models.gguf_reader import GgufHeader, GgufTensor, read_gguf
from tutelage.models.gguf_tokenizer import GgufTokenizer, read_tokenizer
from tutelage.models.safetensors_file import write_float32
from tutelage.runs import write_json, write_text

MAX_TEMPLATE = 65_536  # bytes; the same limit as safety.check_folder


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The sizes of a Llama-type model."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    context: int
    theta: float
    epsilon: float


def convert_gguf(source: Path, folder: Path) -> None:
    """Write the model in the GGUF file `source` into the empty `folder`; its header is checked before anything else."""
    header = read_gguf(source)
    shape = _read_shape(header)
    tokenizer = read_tokenizer(header, shape.context)
    tied = "output.weight" not in header.tensors
    plan = _plan(header, shape, tied)
    config = _config(header, shape, tokenizer, tied)
    _write_small_files(folder, config, tokenizer)
    shapes = {name: expected for name, (_, expected) in plan.items()}
    write_float32(folder / "model.safetensors", shapes, _weights(header, shape, plan))


def _number(header: GgufHeader, key: str, *, default: float | None = None) -> float:
    value = header.metadata.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise ModelError(f"`{key}` is missing or not a positive number", where=str(header.path), why=repr(value)[:100])
    return value


def _size(header: GgufHeader, key: str, *, default: int | None = None) -> int:
    value = _number(header, key, default=default)
    if value != int(value) or value > 1 << 24:
        raise ModelError(f"`{key}` is not a usable size", where=str(header.path), why=repr(value))
    return int(value)


def _read_shape(header: GgufHeader) -> LlamaShape:
    architecture = header.metadata.get("general.architecture")
    if architecture != "llama":
        raise ModelError(
            "only GGUF files of the llama architecture are converted",
            where=str(header.path),
            why=f"this one says {str(architecture)[:100]!r}",
            fix="name the model's safetensors folder or hub id instead",
        )
    refused = [key for key in header.metadata if key.startswith(("llama.rope.scaling.", "llama.expert_"))]
    if refused or "rope_freqs.weight" in header.tensors:
        raise ModelError(
            "this GGUF file uses rope scaling or experts, which are not converted",
            where=str(header.path),
            why=", ".join(refused[:5]) or "rope_freqs.weight",
            fix="name the model's safetensors folder or hub id instead",
        )
    hidden, heads = _size(header, "llama.embedding_length"), _size(header, "llama.attention.head_count")
    head = _size(header, "llama.attention.key_length", default=max(1, hidden // heads))
    shape = LlamaShape(
        vocabulary=len(tokens) if isinstance(tokens := header.metadata.get("tokenizer.ggml.tokens"), list) else 0,
        hidden=hidden,
        intermediate=_size(header, "llama.feed_forward_length"),
        layers=_size(header, "llama.block_count"),
        heads=heads,
        kv_heads=_size(header, "llama.attention.head_count_kv", default=heads),
        head=head,
        context=_size(header, "llama.context_length"),
        theta=_number(header, "llama.rope.freq_base", default=10_000.0),
        epsilon=_number(header, "llama.attention.layer_norm_rms_epsilon"),
    )
    rotated = _size(header, "llama.rope.dimension_count", default=head)
    if rotated != head or head % 2 or heads % shape.kv_heads or shape.layers > 1024:
        raise ModelError(
            "the heads of this GGUF file do not add up",
            where=str(header.path),
            why=f"{heads} heads of {head}, {shape.kv_heads} key heads, {rotated} rotated, {shape.layers} layers",
        )
    return shape


def _plan(header: GgufHeader, shape: LlamaShape, tied: bool) -> dict[str, tuple[GgufTensor, tuple[int, ...]]]:
    """transformers' name → the GGUF tensor and its shape, every tensor of the file used exactly once."""
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    wanted: list[tuple[str, str, tuple[int, ...]]] = [
        ("model.embed_tokens.weight", "token_embd.weight", (shape.vocabulary, shape.hidden)),
        ("model.norm.weight", "output_norm.weight", (shape.hidden,)),
    ]
    if not tied:
        wanted.append(("lm_head.weight", "output.weight", (shape.vocabulary, shape.hidden)))
    for layer in range(shape.layers):
        wanted += [
            (f"model.layers.{layer}.{ours}.weight", f"blk.{layer}.{theirs}.weight", expected)
            for ours, theirs, expected in (
                ("input_layernorm", "attn_norm", (shape.hidden,)),
                ("self_attn.q_proj", "attn_q", (queries, shape.hidden)),
                ("self_attn.k_proj", "attn_k", (keys, shape.hidden)),
                ("self_attn.v_proj", "attn_v", (keys, shape.hidden)),
                ("self_attn.o_proj", "attn_output", (shape.hidden, queries)),
                ("post_attention_layernorm", "ffn_norm", (shape.hidden,)),
                ("mlp.gate_proj", "ffn_gate", (shape.intermediate, shape.hidden)),
                ("mlp.up_proj", "ffn_up", (shape.intermediate, shape.hidden)),
                ("mlp.down_proj", "ffn_down", (shape.hidden, shape.intermediate)),
            )
        ]
    plan: dict[str, tuple[GgufTensor, tuple[int, ...]]] = {}
    for ours, theirs, expected in wanted:
        tensor = header.tensors.get(theirs)
        if tensor is None or tensor.shape != expected:
            found = "it is missing" if tensor is None else f"it is {tensor.shape}"
            raise ModelError(f"tensor `{theirs}` must be {expected}", where=str(header.path), why=found)
        plan[ours] = (tensor, expected)
    unknown = sorted(header.tensors.keys() - {theirs for _, theirs, _ in wanted})
    if unknown:
        raise ModelError(
            f"this GGUF file has {len(unknown)} tensors that a plain Llama has not",
            where=str(header.path),
            why=", ".join(unknown[:5]),
            fix="name the model's safetensors folder or hub id instead",
        )
    return plan


def _weights(
    header: GgufHeader, shape: LlamaShape, plan: dict[str, tuple[GgufTensor, tuple[int, ...]]]
) -> Iterator[NDArray[np.float32]]:
    data = np.memmap(header.path, mode="r", dtype=np.uint8)
    for name, (tensor, expected) in plan.items():
        rows = data[tensor.offset : tensor.offset + tensor.nbytes].reshape(*expected[:-1], -1)
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused below
                values = np.asarray(dequantize(rows, tensor.kind), dtype=np.float32)
        except NotImplementedError as error:
            raise ModelError(
                f"tensor `{tensor.name}` is stored in a way that is not read",
                where=f"{header.path}:byte {tensor.offset}",
                why=f"type {tensor.kind.name}",
            ) from error
        if not np.isfinite(values).all():
            raise ModelError(
                f"tensor `{tensor.name}` holds values that are not finite",
                where=f"{header.path}:byte {tensor.offset}",
                fix="fetch the file again",
            )
        if name.endswith("q_proj.weight"):
            values = _unpermuted(values, shape.heads)
        elif name.endswith("k_proj.weight"):
            values = _unpermuted(values, shape.kv_heads)
        yield values


def _unpermuted(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's order: it rotates neighbours (0, 1), (2, 3), ..., transformers rotates the halves of a head."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _config(header: GgufHeader, shape: LlamaShape, tokenizer: GgufTokenizer, tied: bool) -> dict[str, Any]:
    ids = {f"{name}_token_id": tokenizer.special.get(name) for name in ("bos", "eos", "pad")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        **ids,
        "dtype": "float32",
        "head_dim": shape.head,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 1 / math.sqrt(shape.hidden),
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": _shortest(shape.epsilon),
        "rope_theta": _shortest(shape.theta),
        "tie_word_embeddings": tied,
        "vocab_size": shape.vocabulary,
    }


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: GGUF's 9.999999747378752e-06 was 1e-05."""
    return float(str(np.float32(value)))


def _write_small_files(folder: Path, config: dict[str, Any], tokenizer: GgufTokenizer) -> None:
    write_json(folder / "config.json", config)
    generation = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **generation})
    write_text(folder / "tokenizer.json", tokenizer.tokenizer.to_str())
    write_json(folder / "tokenizer_config.json", tokenizer.settings)
    if tokenizer.chat_template is not None:
        if len(tokenizer.chat_template.encode()) > MAX_TEMPLATE:
            raise ModelError("the chat template is too long", where=str(folder), why=f"at most {MAX_TEMPLATE} bytes")
        write_text(folder / "chat_template.jinja", tokenizer.chat_template)
