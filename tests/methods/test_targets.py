"""Which layers a kind, a pattern and a layer's number mean, on every family of models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tutelage.errors import RecipeError
from tutelage.methods.targets import is_attention, is_feed_forward, number_of, target_names

Folders = Callable[[str], Path]
SMALL = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
OTHERS: dict[str, dict[str, Any]] = {
    "bert": SMALL, "roberta": SMALL, "distilbert": {"vocab_size": 60, "dim": 24, "hidden_dim": 32, "n_layers": 2, "n_heads": 2},
    "modernbert": {**SMALL, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "t5": {"vocab_size": 60, "d_model": 24, "d_kv": 12, "d_ff": 32, "num_layers": 2, "num_heads": 2},
    "bart": {"vocab_size": 60, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    "bloom": {"vocab_size": 60, "hidden_size": 24, "n_layer": 2, "n_head": 2}, "phi": SMALL, "gpt_neox": SMALL, "opt": {
        "vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32},
}  # fmt: skip


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", OTHERS)
def test_attention_and_mlp_together_are_all_the_linear_layers_within_layers(kind: str) -> None:
    model = AutoModel.from_config(CONFIG_MAPPING[kind](**OTHERS[kind]))
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    inner = {name for name in linear if any(part.isdigit() for part in name.split("."))}
    attention, mlp = ({name for name in linear if of(name)} for of in (is_attention, is_feed_forward))
    assert attention
    assert mlp
    assert not attention & mlp
    assert attention | mlp == inner


def test_kinds_patterns_and_layers_of_llama(model_folder: Folders) -> None:
    model = load(model_folder("llama"))
    last: Callable[[Any], set[str]] = lambda names: {name.rpartition(".")[2] for name in names}  # noqa: E731
    assert last(target_names(model, "mlp")) == {"gate_proj", "up_proj", "down_proj"}
    assert last(target_names(model, "attention")) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert last(target_names(model, ["*_proj"])) == last(target_names(model, "all-linear"))
    assert target_names(model, ["self_attn.[qk]*"]) == target_names(model, ["q_proj", "k_proj"])
    assert target_names(model, ["model.layers.1.mlp.*"]) == target_names(model, "mlp", {1})
    assert {number_of(name) for name in target_names(model, "all-linear", {1})} == {1}
    assert last(target_names(load(model_folder("gpt2")), "mlp")) == {"c_fc", "c_proj"}


def test_what_does_not_exist_is_refused_with_what_does(model_folder: Folders) -> None:
    model = load(model_folder("llama"))
    with pytest.raises(RecipeError, match="no layer 7") as caught:
        target_names(model, "mlp", {1, 7})
    assert (caught.value.problems[0].where, caught.value.problems[0].fix) == ("method.layers", "layers: [0-1]")
    with pytest.raises(RecipeError, match=r"no linear layer called `x\*`"):
        target_names(model, ["x*"])
    with pytest.raises(RecipeError, match="known to be of its mlp") as caught:
        target_names(nn_only(), "mlp")
    assert "name the layers" in caught.value.problems[0].fix


def nn_only() -> Any:
    class Odd(nn.Module):
        config = None

        def __init__(self) -> None:
            super().__init__()
            self.mixer = nn.Linear(2, 2)

        def get_output_embeddings(self) -> None:
            return None

    return Odd()


def test_experts_are_not_passed_over_in_silence() -> None:
    sizes = {
        **SMALL,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 8,
    }
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["qwen3_moe"](**sizes))
    for kind in ("all-linear", "mlp"):
        with pytest.raises(RecipeError, match="would miss this model's experts"):
            target_names(model, kind)
    assert target_names(model, "attention")
