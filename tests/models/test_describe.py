import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tutelage.errors import MissingInputError, ModelError
from tutelage.models.describe import describe
from tutelage.models.safetensors_file import read_header, write_tensors
from tutelage.models.types import ModelInfo


def test_the_tiny_model(tiny, tiny_folder):
    count = sum(parameter.numel() for parameter in tiny.model.parameters())
    assert describe(tiny_folder) == ModelInfo(
        path=tiny_folder, architecture="LlamaForCausalLM", model_type="llama", parameters=count, weight_bytes=4 * count,
        dtypes={"float32": count}, vocabulary=len(tiny.tokens), hidden=64, layers=2, context=256, tied_embeddings=True,
        has_chat_template=True,
    )  # fmt: skip


def test_shards_count_like_one_file_and_dtypes_are_told_apart(tmp_path):
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
            tie_word_embeddings=False,
        )
    ).to(torch.bfloat16)  # fmt: skip
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = describe(tmp_path / "one"), describe(tmp_path / "many")
    assert one == replace(many, path=one.path)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert (one.parameters, one.weight_bytes, one.dtypes) == (count, 2 * count, {"bfloat16": count})
    assert (one.tied_embeddings, one.has_chat_template) == (False, False)


def test_a_tied_head_that_is_stored_counts_once(tmp_path):
    shapes = {"model.embed_tokens.weight": (8, 4), "lm_head.weight": (8, 4), "model.norm.weight": (4,)}
    write_tensors(
        tmp_path / "model.safetensors",
        {n: ("F32", s) for n, s in shapes.items()},
        (np.zeros(shape, np.float32) for shape in shapes.values()),
    )
    for tied, parameters in ((True, 36), (False, 68)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": tied}))
        info = describe(tmp_path)
        assert (info.tied_embeddings, info.parameters, info.vocabulary) == (tied, parameters, 8)


def test_the_licence_comes_from_the_receipt_or_the_card(tiny_copy):
    assert describe(tiny_copy).licence is None
    (tiny_copy / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\nlicense: other\n")
    assert describe(tiny_copy).licence == "mit"
    (tiny_copy / "tutelage.json").write_text(json.dumps({"licence": "apache-2.0"}))
    assert describe(tiny_copy).licence == "apache-2.0"


def test_what_cannot_be_described(tmp_path, tiny_copy):
    with pytest.raises(MissingInputError):
        describe(tmp_path / "none")
    with pytest.raises(ModelError, match="cannot read this file"):
        describe(tmp_path)
    config = json.loads((tiny_copy / "config.json").read_text())
    (tiny_copy / "config.json").write_text(json.dumps({**config, "hidden_size": "big"}))
    with pytest.raises(ModelError, match="`hidden_size` must be a whole number"):
        describe(tiny_copy)


def test_what_is_written_is_what_the_header_says(tmp_path):
    shapes = {"b": (2, 3), "a": (5,)}
    write_tensors(
        tmp_path / "x.safetensors",
        {n: ("F32", s) for n, s in shapes.items()},
        (np.ones(shape, np.float32) for shape in shapes.values()),
    )
    found = read_header(tmp_path / "x.safetensors")
    assert [(tensor.name, tensor.dtype, tensor.shape, tensor.start, tensor.stop) for tensor in found] == [
        ("b", "F32", (2, 3), 0, 24), ("a", "F32", (5,), 24, 44),
    ]  # fmt: skip


def test_a_gguf_file_is_described_as_what_it_becomes_without_becoming_it(tiny, tiny_folder):
    found = describe(tiny.path)
    assert found == replace(describe(tiny_folder), path=tiny.path)


def test_a_quantised_gguf_file_says_its_types_and_bytes(make_gguf, tmp_path):
    made = make_gguf(tmp_path / "m.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    found = describe(made.path)
    matrices, norms = (
        sum(p.numel() for p in made.model.parameters() if (p.dim() > 1) is wide) for wide in (True, False)
    )
    assert found.dtypes == {"q8_0": matrices, "float32": norms}
    assert found.weight_bytes == matrices // 32 * 34 + 4 * norms
