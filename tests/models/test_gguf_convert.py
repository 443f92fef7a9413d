import json
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from transformers import AutoTokenizer, LlamaForCausalLM

from tutelage.errors import ModelError
from tutelage.models.gguf_convert import Planned, _weights, convert_gguf, unpermuted
from tutelage.models.gguf_reader import GgufHeader, GgufTensor

Kind = gguf.GGMLQuantizationType
F16, BF16 = Kind.F16, Kind.BF16
QUANTISED = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]
K_QUANTS = [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]


@pytest.mark.parametrize("tied", [True, False])
def test_converted_logits_equal_the_original_model(make_gguf, tmp_path, tied):
    original = make_gguf(tmp_path / "m.gguf", tied=tied)
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(original.path, folder)
    converted = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert converted.config.tie_word_embeddings is tied
    ids = torch.randint(0, len(original.tokens), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(converted(ids).logits, original.model(ids).logits)


@pytest.mark.parametrize("kind", [*QUANTISED, F16])
def test_weights_are_kept_exactly_quantised_ones_in_float32(make_gguf, tmp_path, kind):
    original = make_gguf(tmp_path / "m.gguf", kind=kind)
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(original.path, folder)
    stored = load_file(folder / "model.safetensors")
    for name in (
        "model.embed_tokens.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
    ):
        weight = original.model.get_parameter(name).detach().numpy()
        expected = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
        assert stored[name].dtype == (np.float16 if kind == F16 else np.float32)
        assert np.array_equal(stored[name], expected)
        assert not np.array_equal(stored[name], weight)


def test_bfloat16_is_copied_bit_for_bit(make_gguf, tmp_path):
    original = make_gguf(tmp_path / "m.gguf", kind=BF16)
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(original.path, folder)
    stored = load_torch(folder / "model.safetensors")
    for name in ("lm_head.weight", "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"):
        if name in stored:
            assert torch.equal(stored[name], original.model.get_parameter(name).to(torch.bfloat16))
    assert stored["model.norm.weight"].dtype == torch.float32
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("kind", K_QUANTS)
def test_k_quants_are_what_the_gguf_library_makes_of_them(tmp_path, monkeypatch, kind):
    """Random blocks; few rows at a time must give what the whole tensor gives."""
    monkeypatch.setattr("tutelage.models.gguf_convert.CHUNK_VALUES", 4 * 512)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, heads = 24, 3
    data = np.random.default_rng(5).integers(0, 60, (rows, 512 // block * size), dtype=np.uint8)
    (tmp_path / "blocks").write_bytes(data.tobytes())
    tensor = GgufTensor("x", (rows, 512), kind, 0, data.nbytes)
    header = GgufHeader(tmp_path / "blocks", {}, {"x": tensor})
    for moved in (0, heads):
        chunks = list(_weights(header, {"x": Planned(tensor, tensor.shape, "F32", moved)}))
        whole = gguf.quants.dequantize(data, kind)
        assert len(chunks) > 1
        assert np.array_equal(np.concatenate(chunks), unpermuted(whole, heads) if moved else whole)


def test_memory_stays_at_some_rows_however_large_a_tensor_is(tmp_path):
    rows, columns = 16_384, 2_048  # 128 MiB in float32
    data = np.zeros((rows, columns // 32 * 34), np.uint8)
    (tmp_path / "blocks").write_bytes(data.tobytes())
    tensor = GgufTensor("x", (rows, columns), Kind.Q8_0, 0, data.nbytes)
    header = GgufHeader(tmp_path / "blocks", {}, {"x": tensor})
    del data
    tracemalloc.start()
    count = sum(chunk.nbytes for chunk in _weights(header, {"x": Planned(tensor, tensor.shape, "F32")}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4 * rows * columns
    assert peak < 100e6


def test_config_and_special_tokens(tiny_folder):
    config = json.loads((tiny_folder / "config.json").read_text())
    assert (config["rope_parameters"]["rope_theta"], config["rms_norm_eps"]) == (
        50_000.0,
        1e-5,
    )  # the decimals, not float32's expansion
    assert (config["max_position_embeddings"], config["num_key_value_heads"], config["head_dim"]) == (256, 2, 16)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder, local_files_only=True)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.model_max_length == 256
    assert tokenizer("<|im_start|>a<|im_end|>")["input_ids"][::2] == [1, 2]
    assert tokenizer.decode([1, 2], skip_special_tokens=True) == ""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_missing_pad_token_is_the_end_token_and_bos_is_put_first_where_asked(make_gguf, tmp_path):
    def ask_for_bos(writer: gguf.GGUFWriter) -> None:
        del writer.kv_data[0]["tokenizer.ggml.padding_token_id"]
        writer.kv_data[0]["tokenizer.ggml.add_bos_token"].value = True

    original = make_gguf(tmp_path / "m.gguf", extra=ask_for_bos)
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(original.path, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.pad_token_id == 2
    assert tokenizer("fox")["input_ids"][0] == 1


def _set(key: str, value: object):
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0][key].value = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("general.architecture", "mamba"), "GGUF files of the architecture 'mamba' are not converted"),
        (_set("tokenizer.ggml.pre", "falcon"), "a rule that is not known here: 'falcon'"),
        (_set("tokenizer.ggml.model", "t5"), "GGUF tokenizers of the kind 't5' are not read"),
        (_set("tokenizer.ggml.model", "llama"), "not a token for every byte"),
        (_set("tokenizer.ggml.add_space_prefix", True), "puts a space before the text"),
        (_set("tokenizer.ggml.eos_token_id", 99_999), "eos token lies outside"),
        (_set("llama.block_count", 3), "`blk.2.attn_norm.weight` must be"),
        (_set("llama.feed_forward_length", 128), "`blk.0.ffn_gate.weight` must be (128, 64)"),
        (_set("llama.attention.head_count_kv", 3), "do not add up"),
        (_set("llama.rope.freq_base", float("nan")), "`llama.rope.freq_base` is missing or not a positive number"),
        (_set("llama.attention.head_count", 0), "`llama.attention.head_count` is missing or not a positive"),
        (_set("llama.block_count", 1), "9 tensors that a plain LlamaForCausalLM has not"),
        (lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "'longrope'"),
        (lambda writer: writer.add_rope_scaling_yarn_beta_fast(16.0), "by a rule that is not known here"),
        (lambda writer: writer.add_expert_count(8), "has experts"),
        (lambda writer: writer.add_uint16("split.count", 3), "llama-gguf-split --merge"),
    ],
)
def test_what_is_not_understood_is_refused(make_gguf, tmp_path, change, says):
    original = make_gguf(tmp_path / "m.gguf", extra=change)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(ModelError) as caught:
        convert_gguf(original.path, folder)
    assert says in str(caught.value)
    assert str(original.path) in str(caught.value)
    assert list(folder.iterdir()) == []


def test_values_that_are_not_finite_are_refused(make_gguf, tmp_path):
    original = make_gguf(tmp_path / "m.gguf")
    data = bytearray(original.path.read_bytes())
    data[-4:] = np.float32("nan").tobytes()
    original.path.write_bytes(data)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(ModelError, match="not finite"):
        convert_gguf(original.path, folder)


@pytest.mark.slow
def test_the_real_model_answers(real_model: Path):
    tokenizer = AutoTokenizer.from_pretrained(real_model, local_files_only=True)
    model = LlamaForCausalLM.from_pretrained(real_model, dtype=torch.float32).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    for question, word in (("What is the capital of France?", "Paris"), ("What colour is grass? One word.", "reen")):
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        answer = model.generate(**ids, max_new_tokens=24, do_sample=False)[0][ids["input_ids"].shape[1] :]
        assert word in tokenizer.decode(answer)
        assert tokenizer.eos_token_id in answer.tolist()  # it ends its turn
