"""llama.cpp's architectures as transformers' classes: names and shapes of tensors, and what each family keeps to itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tutelage.models.gguf_reader import GgufHeader
from tutelage.models.gguf_rope import read_rope, shortest

MAX_LAYERS = 1024
ATTENTION = {
    "attn_norm.weight": ("input_layernorm.weight", "hidden"),
    "attn_q.weight": ("self_attn.q_proj.weight", "queries hidden"),
    "attn_k.weight": ("self_attn.k_proj.weight", "keys hidden"),
    "attn_v.weight": ("self_attn.v_proj.weight", "keys hidden"),
    "attn_output.weight": ("self_attn.o_proj.weight", "hidden queries"),
}
MLP = {
    "ffn_gate.weight": ("mlp.gate_proj.weight", "intermediate hidden"),
    "ffn_up.weight": ("mlp.up_proj.weight", "intermediate hidden"),
    "ffn_down.weight": ("mlp.down_proj.weight", "hidden intermediate"),
}
ONE_NORM = {"ffn_norm.weight": ("post_attention_layernorm.weight", "hidden")}
THREE_NORMS = {  # Gemma 2 and 3: also behind attention and feed-forward
    "post_attention_norm.weight": ("post_attention_layernorm.weight", "hidden"),
    "ffn_norm.weight": ("pre_feedforward_layernorm.weight", "hidden"),
    "post_ffw_norm.weight": ("post_feedforward_layernorm.weight", "hidden"),
}
HEAD_NORMS = {
    "attn_q_norm.weight": ("self_attn.q_norm.weight", "head"),
    "attn_k_norm.weight": ("self_attn.k_norm.weight", "head"),
}
QKV_BIAS = {
    "attn_q.bias": ("self_attn.q_proj.bias", "queries"),
    "attn_k.bias": ("self_attn.k_proj.bias", "keys"),
    "attn_v.bias": ("self_attn.v_proj.bias", "keys"),
}
# Biases that a config switches on: present in the file, all of them or none.
ATTENTION_BIAS = {**QKV_BIAS, "attn_output.bias": ("self_attn.o_proj.bias", "hidden")}
MLP_BIAS = {
    "ffn_gate.bias": ("mlp.gate_proj.bias", "intermediate"),
    "ffn_up.bias": ("mlp.up_proj.bias", "intermediate"),
    "ffn_down.bias": ("mlp.down_proj.bias", "hidden"),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a decoder. `queries` and `keys` are the rows of its projections: heads times head."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    context: int

    @property
    def queries(self) -> int:
        """Rows of q."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Rows of k and v."""
        return self.kv_heads * self.head

    def shape(self, dimensions: str) -> tuple[int, ...]:
        """The sizes that the words of `dimensions` name."""
        return tuple(getattr(self, name) for name in dimensions.split())


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of llama.cpp's architectures. `own` gives the config keys that only its family has."""

    model_type: str
    name: str
    layer: dict[str, tuple[str, str]]
    own: Callable[[GgufHeader, str, Sizes], dict[str, Any]]
    optional: tuple[tuple[str, dict[str, tuple[str, str]]], ...] = ()
    rotates_neighbours: bool = False  # q and k rows are reordered: llama.cpp rotates (0, 1), transformers the halves
    norm_offset: float = 0.0  # Gemma's norms multiply by 1 + weight, llama.cpp's by weight


def _silu(header: GgufHeader, arch: str, sizes: Sizes) -> dict[str, Any]:
    return {"hidden_act": "silu", "rope_parameters": read_rope(header, arch, sizes.head)}


def _smollm3(header: GgufHeader, arch: str, sizes: Sizes) -> dict[str, Any]:
    # Every fourth layer has no rotation: built into llama.cpp's architecture, a list in transformers.
    return {**_silu(header, arch, sizes), "no_rope_layers": [int((i + 1) % 4 != 0) for i in range(sizes.layers)]}


def _gemma(header: GgufHeader, arch: str, sizes: Sizes) -> dict[str, Any]:
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_parameters": read_rope(header, arch, sizes.head),
    }


def _gemma2(header: GgufHeader, arch: str, sizes: Sizes) -> dict[str, Any]:
    return {
        **_gemma(header, arch, sizes),
        "attn_logit_softcapping": shortest(header.number(f"{arch}.attn_logit_softcapping", default=50.0)),
        "final_logit_softcapping": shortest(header.number(f"{arch}.final_logit_softcapping", default=30.0)),
        **_windows(header, arch, sizes, period=2, scaled_otherwise=46),
    }


def _gemma3(header: GgufHeader, arch: str, sizes: Sizes) -> dict[str, Any]:
    cap = header.metadata.get(f"{arch}.final_logit_softcapping")
    if cap:
        raise header.refuse(f"a Gemma 3 with capped logits is not known: {cap}", at=f"{arch}.final_logit_softcapping")
    local = shortest(header.number(f"{arch}.rope.freq_base_swa", default=10_000.0))
    seeing_all = read_rope(header, arch, sizes.head)
    return {
        **_gemma(header, arch, sizes),
        "rope_parameters": {
            "full_attention": seeing_all,
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
        **_windows(header, arch, sizes, period=6, scaled_otherwise=62),
    }


def _windows(
    header: GgufHeader, arch: str, sizes: Sizes, *, period: int, scaled_otherwise: int
) -> dict[str, Any]:  # fmt: skip
    """Which layers see a window only, and by what queries are scaled: both are built into llama.cpp.

    It scales by the head's size, in the largest model of the family (told by its layer count) by hidden / heads.
    """
    period = header.size(f"{arch}.attention.sliding_window_pattern", default=period)
    kinds = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(sizes.layers)]
    return {
        "layer_types": kinds,
        "sliding_window": header.size(f"{arch}.attention.sliding_window"),
        "query_pre_attn_scalar": sizes.hidden // sizes.heads if sizes.layers == scaled_otherwise else sizes.head,
    }


_LLAMA = {**ATTENTION, **ONE_NORM, **MLP}
_BIASES = (("attention_bias", ATTENTION_BIAS), ("mlp_bias", MLP_BIAS))
_GEMMA3 = {**ATTENTION, **HEAD_NORMS, **THREE_NORMS, **MLP}

ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", _LLAMA, _silu, _BIASES, rotates_neighbours=True),
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM", _LLAMA, _smollm3, _BIASES, rotates_neighbours=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", {**_LLAMA, **QKV_BIAS}, _silu),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", {**_LLAMA, **HEAD_NORMS}, _silu, _BIASES[:1]),
    "gemma": Architecture("gemma", "GemmaForCausalLM", _LLAMA, _gemma, norm_offset=1.0),
    "gemma2": Architecture(
        "gemma2", "Gemma2ForCausalLM", {**ATTENTION, **THREE_NORMS, **MLP}, _gemma2, norm_offset=1.0
    ),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", _GEMMA3, _gemma3, norm_offset=1.0),
}


def architecture_of(header: GgufHeader) -> tuple[str, Architecture]:
    """The name and the entry of the file's architecture; one that is not known, split or mixed is a ModelError."""
    name = str(header.metadata.get("general.architecture"))
    if name not in ARCHITECTURES:
        raise header.refuse(
            f"GGUF files of the architecture {name[:100]!r} are not converted", at="general.architecture",
            why=f"known: {', '.join(ARCHITECTURES)}",
        )  # fmt: skip
    if header.metadata.get("split.count", 1) not in (0, 1):
        raise header.refuse(
            "this is one part of a split GGUF file", at="split.count", why="join the parts: llama-gguf-split --merge"
        )
    experts = sorted(key for key in header.metadata if key.startswith(f"{name}.expert_") and header.metadata[key])
    if experts:
        raise header.refuse("this GGUF file has experts, which are not converted", at=experts[0])
    return name, ARCHITECTURES[name]


def read_sizes(header: GgufHeader, arch: str) -> Sizes:
    """The sizes that the metadata name; what does not add up is a ModelError."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    hidden, heads = header.size(f"{arch}.embedding_length"), header.size(f"{arch}.attention.head_count")
    head = header.size(f"{arch}.attention.key_length", default=max(1, hidden // heads))
    sizes = Sizes(
        vocabulary=len(tokens) if isinstance(tokens, list) else 0,
        hidden=hidden,
        intermediate=header.size(f"{arch}.feed_forward_length"),
        layers=header.size(f"{arch}.block_count"),
        heads=heads,
        kv_heads=header.size(f"{arch}.attention.head_count_kv", default=heads),
        head=head,
        context=header.size(f"{arch}.context_length"),
    )
    rotated = header.size(f"{arch}.rope.dimension_count", default=head)
    values = header.size(f"{arch}.attention.value_length", default=head)
    if {rotated, values} != {head} or head % 2 or heads % sizes.kv_heads or sizes.layers > MAX_LAYERS:
        raise header.refuse(
            "the heads of this GGUF file do not add up",
            at=f"{arch}.attention.head_count",
            why=f"{heads} heads of {head}, {values} per value, {sizes.kv_heads} key heads, {rotated} rotated, "
            f"{sizes.layers} layers",
        )
    return sizes
