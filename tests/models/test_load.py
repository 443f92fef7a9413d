import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration
from transformers.utils import logging

from tutelage.errors import ModelError
from tutelage.models.load import load_model, load_tokenizer, save_model


def change(path, keys):
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_the_loaded_model_is_the_model(tiny, tiny_folder):
    model = load_model(tiny_folder, dtype=torch.float32)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, tiny.model(ids).logits)
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    assert load_model(tiny_folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_loading_is_silent_and_leaves_the_settings_alone(tiny_folder, capfd):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(tiny_folder, dtype=torch.float32)
    load_tokenizer(tiny_folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_saving_is_silent_and_the_same_model_is_loaded(tiny_folder, tmp_path, capfd):
    model = load_model(tiny_folder, dtype=torch.float32)
    save_model(model, tmp_path / "saved")
    assert capfd.readouterr() == ("", "")
    again = load_model(tmp_path / "saved", dtype=torch.float32).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "declared", ["GPT2Tokenizer", "GPT2TokenizerFast", "LlamaTokenizer", "PreTrainedTokenizerFast"]
)
def test_the_splitting_rule_is_the_files_whatever_class_is_declared(tiny_copy, declared):
    change(tiny_copy / "tokenizer_config.json", {"tokenizer_class": declared})
    tokenizer = load_tokenizer(tiny_copy)
    assert tokenizer.convert_ids_to_tokens(tokenizer("x\n\n3. 12")["input_ids"]) == ["x", "ĊĊ", "3", ".", "Ġ", "1", "2"]
    assert tokenizer.is_fast
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


def test_missing_or_misshapen_weights_are_never_made_up(tiny_copy):
    file = tiny_copy / "model.safetensors"
    whole = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in whole.items() if key != name}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"1 weights of this model are missing.*\n.*{name}"):
        load_model(tiny_copy, dtype=torch.float32)
    save_file({**whole, name: np.zeros((3, 3), np.float32)}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError):
        load_model(tiny_copy, dtype=torch.float32)


def test_models_that_are_not_causal_are_refused(tmp_path):
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=16))
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    for name, model in (("bert", bert), ("t5", t5)):
        model.save_pretrained(tmp_path / name)
        with pytest.raises(ModelError, match="this is not a causal language model: " + type(model).__name__):
            load_model(tmp_path / name, dtype=torch.float32)


def test_quantised_models_and_adapters_are_refused(tiny_copy):
    change(tiny_copy / "config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    with pytest.raises(ModelError, match="stored quantised"):
        load_model(tiny_copy, dtype=torch.float32)
    (tiny_copy / "config.json").unlink()
    (tiny_copy / "adapter_config.json").write_text("{}")
    (tiny_copy / "model.safetensors").rename(tiny_copy / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="this is an adapter, not a model"):
        load_model(tiny_copy, dtype=torch.float32)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}'])
def test_a_damaged_tokenizer_is_a_sentence(tiny_copy, content):
    (tiny_copy / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(tiny_copy)
    assert caught.value.problems[0].where == str(tiny_copy / "tokenizer.json")


def test_a_tokenizer_with_two_tokens_of_one_id_is_a_sentence(tiny_copy):
    file = tiny_copy / "tokenizer.json"
    value = json.loads(file.read_text(encoding="utf-8"))
    vocabulary, merges = value["model"]["vocab"], value["model"]["merges"]
    first, last = ("".join(merges[at]) for at in (0, -1))
    vocabulary[first] = vocabulary[last]
    file.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(ModelError, match=r"contradicts itself\n.*two of its tokens have one id") as refusal:
        load_tokenizer(tiny_copy)
    assert repr(first) in str(refusal.value)
    assert repr(last) in str(refusal.value)


@pytest.mark.parametrize("spoilt", range(40))
def test_a_tokenizer_that_lacks_a_merged_token_is_a_sentence(tiny_copy, spoilt):
    """tokenizers 0.23 refuses some of these files and panics at others."""
    file = tiny_copy / "tokenizer.json"
    value = json.loads(file.read_text(encoding="utf-8"))
    del value["model"]["vocab"]["".join(value["model"]["merges"][-1 - spoilt])]
    file.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(tiny_copy)


def test_an_interrupt_while_a_tokenizer_loads_goes_on(tiny_copy, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tutelage.models.load.PreTrainedTokenizerFast.from_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_tokenizer(tiny_copy)


def test_a_missing_tokenizer_is_a_sentence(tiny_copy):
    (tiny_copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(tiny_copy)


@pytest.mark.parametrize(
    "keys", [{"hidden_act": "evil"}, {"num_attention_heads": 7}, {"rope_parameters": {"rope_theta": "x"}}]
)
def test_a_wrong_config_is_a_sentence(tiny_copy, keys):
    change(tiny_copy / "config.json", keys)
    with pytest.raises(ModelError):
        load_model(tiny_copy, dtype=torch.float32)
