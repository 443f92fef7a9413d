"""A GGUF file as a `from_pretrained` folder: weights, config and tokenizer.

Tensors in F32, F16 and BF16 are copied as they are. Quantised ones are written in float32: a Q8_0 value is an 8-bit number
times an 11-bit scale, a Q4_1 or K-quant value has a minimum beside it, and neither bfloat16 nor float16 holds those
products. float32 keeps every value as the file means it, for 4 bytes a parameter; `precision: bf16` rounds while loading.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from tutelage.models.gguf_architectures import Architecture, Sizes, architecture_of, read_sizes
from tutelage.models.gguf_reader import GgufHeader, GgufTensor, read_gguf
from tutelage.models.gguf_rope import FACTORS, shortest
from tutelage.models.gguf_tokenizer import GgufTokenizer, read_tokenizer
from tutelage.models.safetensors_file import write_tensors
from tutelage.runs import write_json, write_text

RULES = 2  # raise it when a conversion would come out otherwise: cached ones are made again
CHUNK_VALUES = 1 << 22  # what is in memory at a time: 16 MiB of float32, and a few times that while it is dequantised
COPIED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # stored alike in both formats
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Planned:
    """One tensor to write: where it is, its shape and dtype there, and what is done to it on the way."""

    source: GgufTensor
    shape: tuple[int, ...]
    dtype: str  # safetensors' name
    heads: int = 0  # of a matrix whose rows llama.cpp keeps in another order
    offset: float = 0.0  # what llama.cpp keeps added to it


@dataclass(frozen=True, slots=True)
class Conversion:
    """A checked GGUF file and what becomes of it: nothing is left that could be refused but values that are not finite."""

    header: GgufHeader
    config: dict[str, Any]
    tokenizer: GgufTokenizer
    plan: dict[str, Planned]


def convert_gguf(source: Path, folder: Path) -> None:
    """Write the model in the GGUF file `source` into the empty `folder`; its header is checked before anything else."""
    made = plan_conversion(source)
    write_headers(made, folder)
    entries = {name: (planned.dtype, planned.shape) for name, planned in made.plan.items()}
    write_tensors(folder / "model.safetensors", entries, _weights(made.header, made.plan))


def plan_conversion(source: Path) -> Conversion:
    """Everything that the header of the GGUF file `source` tells; whatever is not understood is a ModelError."""
    header = read_gguf(source)
    arch, architecture = architecture_of(header)
    sizes = read_sizes(header, arch)
    own = architecture.own(header, arch, sizes)
    biases = {key: names for key, names in architecture.optional if any(f"blk.0.{n}" in header.tensors for n in names)}
    plan = _plan(header, architecture, sizes, [*biases.values()])
    tokenizer = read_tokenizer(header, sizes.context)
    return Conversion(header, _config(header, arch, architecture, sizes, tokenizer, plan, own, biases), tokenizer, plan)


def _plan(
    header: GgufHeader, architecture: Architecture, sizes: Sizes, biases: list[dict[str, tuple[str, str]]]
) -> dict[str, Planned]:
    """transformers' name → what is written under it, every tensor of the file used exactly once."""
    wanted = [
        ("model.embed_tokens.weight", "token_embd.weight", "vocabulary hidden"),
        ("model.norm.weight", "output_norm.weight", "hidden"),
    ]
    if "output.weight" in header.tensors:
        wanted.append(("lm_head.weight", "output.weight", "vocabulary hidden"))
    layer = {theirs: named for names in (architecture.layer, *biases) for theirs, named in names.items()}
    for number in range(sizes.layers):
        wanted += [
            (f"model.layers.{number}.{ours}", f"blk.{number}.{theirs}", dimensions)
            for theirs, (ours, dimensions) in layer.items()
        ]
        if f"blk.{number}.attn_norm.weight" not in header.tensors:
            break  # the missing one is refused below, before a thousand more names are made
    plan: dict[str, Planned] = {}
    for ours, theirs, dimensions in wanted:
        tensor, expected = header.tensors.get(theirs), sizes.shape(dimensions)
        if tensor is None or tensor.shape != expected:
            found = "it is missing" if tensor is None else f"it is {tensor.shape}"
            raise header.refuse(f"tensor `{theirs}` must be {expected}", at=theirs, why=found)
        plan[ours] = _planned(header, architecture, sizes, ours, tensor)
    unknown = sorted(header.tensors.keys() - {theirs for _, theirs, _ in wanted} - {FACTORS})
    if unknown:
        raise header.refuse(
            f"this GGUF file has {len(unknown)} tensors that a plain {architecture.name} has not",
            at=unknown[0], why=", ".join(unknown[:5]),
        )  # fmt: skip
    return plan


def _planned(
    header: GgufHeader, architecture: Architecture, sizes: Sizes, name: str, tensor: GgufTensor
) -> Planned:  # fmt: skip
    block_bytes = GGML_QUANT_SIZES[tensor.kind][1]
    try:
        with np.errstate(all="ignore"):
            dequantize(np.zeros((1, block_bytes), np.uint8), tensor.kind)
    except NotImplementedError as error:
        raise header.refuse(
            f"tensor `{tensor.name}` is stored in a way that is not read", at=tensor.name,
            why=f"type {tensor.kind.name}, at byte {tensor.offset}",
        ) from error  # fmt: skip
    offset = architecture.norm_offset if name.endswith("norm.weight") else 0.0
    heads = 0
    if architecture.rotates_neighbours and ".q_proj." in name:
        heads = sizes.heads
    if architecture.rotates_neighbours and ".k_proj." in name:
        heads = sizes.kv_heads
    dtype = tensor.kind.name if tensor.kind.name in COPIED and not offset else "F32"
    return Planned(tensor, tensor.shape, dtype, heads, offset)


def _weights(header: GgufHeader, plan: dict[str, Planned]) -> Iterator[NDArray[Any]]:
    """The values of every planned tensor, some rows at a time; those that are not finite are a ModelError."""
    data = np.memmap(header.path, mode="r", dtype=np.uint8)
    for planned in plan.values():
        tensor = planned.source
        rows = math.prod(planned.shape[:-1]) if len(planned.shape) > 1 or not planned.heads else planned.shape[0]
        stored = data[tensor.offset : tensor.offset + tensor.nbytes].reshape(rows, -1)
        whole = rows // planned.heads if planned.heads else 1  # rows that must stay together
        step = max(1, CHUNK_VALUES * rows // math.prod(planned.shape) // whole) * whole
        for start in range(0, rows, step):
            values = _values(stored[start : start + step], tensor.kind, planned.dtype)
            if not _finite(values, planned.dtype):
                raise header.refuse(
                    f"tensor `{tensor.name}` holds values that are not finite", at=f"byte {tensor.offset}",
                    why="the file is damaged, or its quantisation went wrong",
                )  # fmt: skip
            if planned.heads:
                values = unpermuted(values, len(values) // whole)
            yield values - np.float32(planned.offset) if planned.offset else values


def _values(stored: NDArray[np.uint8], kind: GGMLQuantizationType, dtype: str) -> NDArray[Any]:
    if kind.name == dtype:
        return stored.view(COPIED[dtype])
    if kind == GGMLQuantizationType.BF16:  # a norm that is moved
        return (stored.view("<u2").astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):  # what is not finite is refused by the caller
        return np.asarray(dequantize(stored, kind), dtype=np.float32)


def _finite(values: NDArray[Any], dtype: str) -> bool:
    if dtype == "BF16":  # numpy has no such type: all bits of the exponent are set
        return not bool(((values & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(values).all())


def unpermuted(values: NDArray[Any], heads: int) -> NDArray[Any]:
    """Undo llama.cpp's order: it rotates neighbours (0, 1), (2, 3), ..., transformers rotates the halves of a head."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _config(
    header: GgufHeader, arch: str, architecture: Architecture, sizes: Sizes, tokenizer: GgufTokenizer,
    plan: dict[str, Planned], own: dict[str, Any], biases: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    ids: dict[str, Any] = {f"{name}_token_id": tokenizer.special.get(name) for name in ("bos", "eos", "pad")}
    if len(tokenizer.stops) > 1:
        ids["eos_token_id"] = list(tokenizer.stops)
    return {
        "architectures": [architecture.name],
        **{key: key in biases for key, _ in architecture.optional},
        "attention_dropout": 0.0,
        **ids,
        "dtype": DTYPES[plan["model.layers.0.mlp.down_proj.weight"].dtype],
        "head_dim": sizes.head,
        "hidden_size": sizes.hidden,
        "initializer_range": 1 / math.sqrt(sizes.hidden),
        "intermediate_size": sizes.intermediate,
        "max_position_embeddings": sizes.context,
        "model_type": architecture.model_type,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": shortest(header.number(f"{arch}.attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "lm_head.weight" not in plan,
        "vocab_size": sizes.vocabulary,
        **own,
    }


def write_headers(made: Conversion, folder: Path) -> None:
    """Write everything but the weights into `folder`."""
    config, tokenizer = made.config, made.tokenizer
    write_json(folder / "config.json", config)
    generation = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **generation})
    write_text(folder / "tokenizer.json", tokenizer.tokenizer.to_str())
    write_json(folder / "tokenizer_config.json", tokenizer.settings)
    if tokenizer.chat_template is not None:
        write_text(folder / "chat_template.jinja", tokenizer.chat_template)
