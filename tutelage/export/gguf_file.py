"""The tuned model as one GGUF file for llama.cpp, Ollama and LM Studio.

The `gguf` package encodes the blocks. As llama.cpp's own converter does, norms stay in float32, and a matrix whose rows
do not fill whole blocks is kept in float16. The embedding and the head of a Q4_0 file are Q8_0: both are looked up for
every token, and four bits there cost more than they save.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, LlamaFileType
from gguf.constants import GGMLQuantizationType as Kind
from gguf.tensor_mapping import get_tensor_name_map
from numpy.typing import NDArray

from tutelage.errors import ModelError, OutputError
from tutelage.export.gguf_families import Family, family_of, rope_factors, stored, write_sizes
from tutelage.export.gguf_replica import open_gguf
from tutelage.export.gguf_tokens import write_tokens
from tutelage.export.llama_cpp_model import llama_cpp
from tutelage.export.types import EXPORTERS, Bounds, Replica, Source
from tutelage.methods.opening import load_located

FILE = "model.gguf"
# precision → (type of matrices, type of embedding and head, the file's type)
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "f16": (Kind.F16, Kind.F16, LlamaFileType.MOSTLY_F16),
    "f32": (Kind.F32, Kind.F32, LlamaFileType.ALL_F32),
    "bf16": (Kind.BF16, Kind.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (Kind.Q8_0, Kind.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Kind.Q4_0, Kind.Q8_0, LlamaFileType.MOSTLY_Q4_0),
}
K_QUANTS = ("q3_k_m", "q4_k_m", "q5_k_m", "q6_k")
# llama.cpp sums in another order than torch, and its CPU kernels round activations to the width of the weights.
BOUNDS = {
    "f32": Bounds(logit_difference=0.05, agreement=0.99, loss=1e-3),
    "f16": Bounds(agreement=0.99, loss=2e-3),
    "bf16": Bounds(agreement=0.97, loss=1e-2),
    "q8_0": Bounds(loss=1e-2),
}
LOSSY = Bounds(loss=0.25)  # reported; a file whose loss is further off than this is broken, not rounded


class GgufFile:
    """Writes a GGUF file tensor by tensor and opens it again with llama.cpp."""

    precisions: tuple[str, ...] = (*KINDS, *K_QUANTS)

    def write(self, source: Source, folder: Path, precision: str) -> None:
        if precision in K_QUANTS:
            write_gguf(source, folder / "wide.gguf", "f16")
            _quantize(folder / "wide.gguf", folder / FILE, precision)
            (folder / "wide.gguf").unlink()
        else:
            write_gguf(source, folder / FILE, precision)

    def reopen(self, source: Source, folder: Path) -> Replica:
        return open_gguf(folder / FILE)

    def bounds(self, precision: str) -> Bounds:
        return BOUNDS.get(precision, LOSSY)


EXPORTERS.add("gguf")(GgufFile())


def write_gguf(source: Source, path: Path, precision: str) -> None:
    """Write the model of `source`, its adapter merged, to the GGUF file `path`; one tensor is encoded at a time."""
    model = load_located(source.located, torch.float32).model
    config = model.config
    family = family_of(config)
    matrices, embeddings, file_type = KINDS[precision]
    writer = gguf.GGUFWriter(str(path), gguf.MODEL_ARCH_NAMES[family.arch])
    writer.add_name(Path(source.located.name).name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    rows = model.get_input_embeddings().weight.shape[0]
    write_sizes(writer, family, config, rows)
    write_tokens(writer, source.template, rows)
    tensors = list(_tensors(model, family))
    kinds = [_kind(name, value, matrices, embeddings) for name, value in tensors]
    for (name, value), kind in zip(tensors, kinds):
        block, size = GGML_QUANT_SIZES[kind]
        writer.add_tensor_info(name, list(value.shape), np.dtype(np.float32), value.numel() // block * size, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for (_, value), kind in zip(tensors, kinds):
            writer.write_tensor_data(_encoded(value, kind))
        writer.close()
    except OSError as error:
        raise OutputError("the GGUF file could not be written", where=str(path), why=str(error)) from error


def _tensors(model: Any, family: Family) -> Iterator[tuple[str, torch.Tensor]]:
    """llama.cpp's name and value of every tensor of `model`; a head that is its embedding is left out."""
    names = get_tensor_name_map(family.arch, model.config.num_hidden_layers)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and head is embedding:
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ModelError(
                f"this model cannot be written as GGUF: llama.cpp has no place for `{name}`",
                why=f"architecture {family.arch.name.lower()}", fix="--to merged",
            )  # fmt: skip
        yield theirs, stored(name, value, family, model.config)
    factors = rope_factors(model.config)
    if factors is not None:
        yield "rope_freqs.weight", torch.from_numpy(factors)


def _kind(name: str, value: torch.Tensor, matrices: Any, embeddings: Any) -> Any:
    if value.dim() < 2:
        return Kind.F32
    kind = embeddings if name in ("token_embd.weight", "output.weight") else matrices
    block, _ = GGML_QUANT_SIZES[kind]
    return Kind.F16 if value.shape[-1] % block else kind


def _encoded(value: torch.Tensor, kind: Any) -> NDArray[Any]:
    array = value.contiguous().numpy()
    if kind == Kind.F32:
        return array
    return np.ascontiguousarray(gguf.quants.quantize(array, kind))


def _quantize(source: Path, target: Path, precision: str) -> None:
    """K-quants are llama.cpp's own: through `llama-quantize` where it is on PATH, else through llama-cpp-python."""
    program = shutil.which("llama-quantize")
    if program is not None:
        command = [program, str(source), str(target), precision.upper()]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        failed, why = done.returncode != 0, done.stderr[-300:]
    else:
        library = llama_cpp()
        parameters = library.llama_model_quantize_default_params()
        parameters.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{precision.upper()}")
        code = library.llama_model_quantize(str(source).encode(), str(target).encode(), parameters)
        failed, why = code != 0, f"llama_model_quantize returned {code}"
    if failed:
        raise ModelError(f"llama.cpp could not quantise this model to {precision}", where=str(source), why=why)
