"""Tiny random models of the usual families, made on the spot: for checks that need an architecture and no knowledge."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

VOCABULARY, CONTEXT = 512, 512
KINDS = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "gpt2")
_SHARED = {
    "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.15,
    "max_position_embeddings": CONTEXT,
}  # fmt: skip
_MODERN = {
    **_SHARED, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12,
}  # fmt: skip
# What makes a family differ: one layer of each kind, windows shorter than the rows, soft caps that bend.
_OWN: dict[str, dict[str, Any]] = {
    "llama": {**_MODERN, "tie_word_embeddings": True},
    "qwen2": {**_MODERN, "tie_word_embeddings": True},
    "qwen3": _MODERN,
    "gemma2": {**_MODERN, "sliding_window": 9, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0,
               "final_logit_softcapping": 3.0},
    "gemma3_text": {**_MODERN, "sliding_window": 9, "query_pre_attn_scalar": 12,
                    "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {**_MODERN, "sliding_window": 9},
    "gpt2": {**_SHARED, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT},
}  # fmt: skip


def tiny_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random fp32 model of two layers of the family `kind`, in eval mode; the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**_OWN[kind]), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():  # nothing is exactly 0 or 1, so that no gradient vanishes by chance
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()
