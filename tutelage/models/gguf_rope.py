"""How a GGUF file says that positions rotate queries and keys, as transformers' `rope_parameters`."""

import math
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from tutelage.models.gguf_reader import GgufHeader

FACTORS = "rope_freqs.weight"  # Llama 3: by how much each rotation is slowed down
LLAMA3_BANDS = (1.0, 4.0)  # low and high frequency factor: the same in every Llama 3 model
READ = {"type", "factor", "original_context_length", "finetuned"}


def read_rope(header: GgufHeader, arch: str, head: int) -> dict[str, Any]:
    """The rotation of a model whose heads have `head` dimensions; a scaling that is not known is a ModelError."""
    theta = shortest(header.number(f"{arch}.rope.freq_base", default=10_000.0))
    prefix = f"{arch}.rope.scaling."
    kind = str(header.metadata.get(f"{prefix}type", "none"))
    unknown = sorted(key for key in header.metadata if key.startswith(prefix) and key.removeprefix(prefix) not in READ)
    if unknown or kind not in SCALINGS:
        raise header.refuse(
            "this GGUF file scales its rotations by a rule that is not known here", at=(unknown or [f"{prefix}type"])[0],
            why=f"the rule is {kind[:100]!r}; known: {', '.join(SCALINGS)} and Llama 3's factors",
        )  # fmt: skip
    rope = {"rope_theta": theta, **SCALINGS[kind](header, prefix)}
    if FACTORS not in header.tensors:
        return rope
    if rope["rope_type"] != "default":
        raise header.refuse("this GGUF file scales its rotations twice", at=FACTORS, why=f"also by {kind}")
    return rope | _llama3(header, theta, head)


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32: GGUF's 9.999999747378752e-06 was 1e-05."""
    return float(str(np.float32(value)))


def _plain(header: GgufHeader, prefix: str) -> dict[str, Any]:
    factor = header.metadata.get(f"{prefix}factor", 1.0)
    if factor not in (0.0, 1.0):  # llama.cpp takes a factor without a type as linear scaling
        return _linear(header, prefix)
    return {"rope_type": "default"}


def _linear(header: GgufHeader, prefix: str) -> dict[str, Any]:
    return {"rope_type": "linear", "factor": shortest(header.number(f"{prefix}factor"))}


def _yarn(header: GgufHeader, prefix: str) -> dict[str, Any]:
    """YaRN (arXiv 2309.00071) with the paper's band and temperature, which both sides have as defaults."""
    return {
        "rope_type": "yarn",
        "factor": shortest(header.number(f"{prefix}factor")),
        "original_max_position_embeddings": header.size(f"{prefix}original_context_length"),
    }


SCALINGS = {"none": _plain, "linear": _linear, "yarn": _yarn}


def llama3_factors(rope: dict[str, Any], head: int) -> NDArray[np.float64]:
    """[head / 2]: by how much each rotation of a Llama 3 model is slowed down.

    Wavelengths below context / high_freq_factor stay, those above context / low_freq_factor are slowed by `factor`, and
    between them the two are blended (Llama 3.1's rule).
    """
    frequencies = 1.0 / rope["rope_theta"] ** (np.arange(0, head, 2, dtype=np.float64) / head)
    lengths = 2 * math.pi / frequencies
    low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    smooth = np.clip((old / lengths - low) / (high - low), 0.0, 1.0)
    factors: NDArray[np.float64] = 1.0 / ((1.0 - smooth) / rope["factor"] + smooth)
    return factors


def _llama3(header: GgufHeader, theta: float, head: int) -> dict[str, Any]:
    """The four numbers behind the factors that the file stores: the file has only what follows from them."""
    tensor = header.tensors[FACTORS]
    if tensor.shape != (head // 2,) or tensor.kind != GGMLQuantizationType.F32:
        raise header.refuse(f"`{FACTORS}` must be {head // 2} float32 numbers", at=FACTORS, why=str(tensor.shape))
    stored = np.fromfile(header.path, dtype="<f4", count=head // 2, offset=tensor.offset).astype(np.float64)
    low, high = LLAMA3_BANDS
    for old in (1 << power for power in range(6, 21)):
        rope: dict[str, Any] = {
            "rope_type": "llama3", "rope_theta": theta, "factor": float(round(stored.max(), 3)), "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": old,
        }  # fmt: skip
        if rope["factor"] >= 1 and np.allclose(llama3_factors(rope, head), stored, rtol=1e-5, atol=0.0):
            return rope
    raise header.refuse(
        "this GGUF file slows rotations by factors that are not Llama 3's", at=FACTORS, why=str(stored[:8])[:100]
    )
