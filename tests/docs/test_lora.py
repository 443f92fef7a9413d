"""The figures of docs/lora.md under "Trainable parameters", computed: by formula, and by wrapping a model of that shape."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tutelage.methods import METHODS
from tutelage.recipe import LoraSpec

PAGE = (Path(__file__).parents[2] / "docs" / "lora.md").read_text(encoding="utf-8")
SMOLLM2: dict[str, Any] = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


def lora(rank: int, shapes: list[tuple[int, int]], layers: int) -> int:
    """r (in + out) for each matrix of each layer."""
    return layers * sum(rank * (rows + columns) for rows, columns in shapes)


def test_loras_ten_thousand_is_that_of_its_own_setting() -> None:
    trained = lora(4, [(12288, 12288)] * 2, 96)
    assert f"{trained:,}" == "18,874,368"
    assert round(175_000_000_000 / trained) == 9272
    assert "96 · 2 · 4 · (12,288 + 12,288) = 18,874,368" in PAGE
    assert "175,000,000,000 / 18,874,368 = 9,272" in PAGE


def test_ours_is_what_a_model_of_that_shape_trains() -> None:
    d, kv, wide = SMOLLM2["hidden_size"], 192, SMOLLM2["intermediate_size"]
    every = [(d, d), (d, kv), (d, kv), (d, d), (d, wide), (d, wide), (wide, d)]
    outputs = 30 * sum(columns for _, columns in every)
    trained, few = lora(16, every, 30), lora(4, [(d, d), (d, kv)], 30)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SMOLLM2))
    total = sum(p.numel() for p in model.parameters())
    assert METHODS.get("lora").prepare(model, LoraSpec(rank=16, init="kaiming"), seed=0).count == trained
    assert f"{trained:,} of {total:,}: {total / trained:.1f} times fewer, {trained / total:.2%}" == (
        "4,884,480 of 134,515,008: 27.5 times fewer, 3.63%"
    )
    assert f"{trained:,} of {total:,}: {total / trained:.1f} times fewer, {trained / total * 100:.2f} %" in PAGE
    assert f"{few:,} values, {total / few:.0f} times fewer" in PAGE
    assert f"{trained + outputs:,}" in PAGE
