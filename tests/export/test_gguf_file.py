"""GGUF files of every family: read back by our own reader, and run by llama.cpp where it is installed."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import tutelage
from tutelage.errors import ModelError
from tutelage.export.gguf_families import permuted, rope_factors
from tutelage.export.gguf_file import FILE, write_gguf
from tutelage.export.gguf_replica import ConvertedReplica
from tutelage.export.types import Source
from tutelage.methods.opening import load_located, locate
from tutelage.models.gguf_convert import unpermuted
from tutelage.models.gguf_reader import read_gguf

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is an extra that builds from source"
)
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip


def source_of(folder: Path) -> Source:
    located = locate(str(folder))
    opened = load_located(located, torch.float32, merge=False)
    return Source(located, opened.model, opened.tokenizer, opened.template)


@pytest.fixture(scope="module")
def wide(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function from config keys to a Llama whose rows fill blocks of 32."""

    def make(kind: str = "llama", **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("wide")
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(model_folder("llama") / name, folder / name)
        torch.manual_seed(3)
        sizes = {
            "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
            "max_position_embeddings": 512, "initializer_range": 0.15, "tie_word_embeddings": True,
        }  # fmt: skip
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**(sizes | changes)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
            model.get_output_embeddings().weight[0] = 0.0  # never said: llama.cpp ends at <|endoftext|> as well
        model.save_pretrained(folder)
        return folder

    return make


def test_permuting_is_the_inverse_of_reading() -> None:
    value = torch.randn(24, 10)
    assert np.array_equal(unpermuted(permuted(value, 3).numpy(), 3), value.numpy())


@pytest.mark.parametrize(
    "precision, exact", [("f32", 1e-4), ("f16", 0.1), ("bf16", 0.5), ("q8_0", 0.5), ("q4_0", 20.0)]
)
def test_our_own_reader_reads_the_same_model_back(
    wide: Callable[..., Path], tmp_path: Path, precision: str, exact: float
) -> None:
    source = source_of(wide())
    write_gguf(source, tmp_path / FILE, precision)
    replica = ConvertedReplica(tmp_path / FILE)
    ids = list(range(3, 60))
    with torch.inference_mode():
        expected = source.model(torch.tensor([ids])).logits[0]
    assert float((replica.logits(ids, 0) - expected).abs().max()) <= exact
    assert replica.template_text() == source.template.text
    assert replica.stop_ids() == source.template.stop_ids
    replica.close()
    assert not replica.folder.exists()


FAMILIES = [
    ("llama", {}), ("llama", {"rope_parameters": LLAMA3}), ("llama", {"tie_word_embeddings": False}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500_000.0, "factor": 4.0}}),
    ("llama", {"attention_bias": True, "mlp_bias": True}), ("llama", {"head_dim": 32}),
    ("mistral", {"sliding_window": None}), ("qwen2", {}), ("qwen2", {"tie_word_embeddings": False}), ("qwen3", {}),
    ("qwen3", {"head_dim": 32, "attention_bias": True}), ("gemma", {}), ("gemma", {"head_dim": 32}),
    ("gemma2", {"query_pre_attn_scalar": 16, "sliding_window": 9}),
    ("gemma3_text", {"query_pre_attn_scalar": 16, "sliding_window": 9, "num_hidden_layers": 7}),
    ("smollm3", {"num_hidden_layers": 4}),
]  # fmt: skip


@pytest.mark.parametrize("kind, changes", FAMILIES)
def test_every_family_comes_back_with_its_logits(
    wide: Callable[..., Path], tmp_path: Path, kind: str, changes: Any
) -> None:
    source = source_of(wide(kind, **changes))
    write_gguf(source, tmp_path / FILE, "f32")
    replica = ConvertedReplica(tmp_path / FILE)
    ids = list(range(3, 60))
    with torch.inference_mode():
        expected = source.model(torch.tensor([ids])).logits[0]
    # Gemma's norms are stored with 1 added, which costs their last bits.
    assert float((replica.logits(ids, 0) - expected).abs().max()) <= (1e-4 if kind.startswith("gemma") else 0.0)
    texts = ["one\n\n3. two  three", "I'm 1969½ naïve 東京 👩‍🚀", "<|im_start|>user\nHi<|im_end|>\n", " a\t b ", ""]
    for text in texts:
        for special in (True, False):
            expected_ids = (source.template.backend if special else source.template.literal).encode(text).ids
            assert replica.ids_of(text, special=special) == expected_ids
    replica.close()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("precision, near", [("f16", 0.02), ("bf16", 0.1), ("q8_0", 0.1), ("q4_0", 0.5)])
def test_every_family_comes_back_rounded(
    wide: Callable[..., Path], tmp_path: Path, kind: str, precision: str, near: float
) -> None:
    """The logits' difference, relative to their spread, is that of the type's rounding."""
    sizes = {"query_pre_attn_scalar": 16, "sliding_window": 9} if kind.startswith("gemma") else {}
    source = source_of(wide(kind, **sizes))
    write_gguf(source, tmp_path / FILE, precision)
    replica = ConvertedReplica(tmp_path / FILE)
    ids = list(range(3, 60))
    with torch.inference_mode():
        expected = source.model(torch.tensor([ids])).logits[0]
    off = float((replica.logits(ids, 0) - expected).std() / expected.std())
    assert 0 < off < near
    replica.close()


def test_matrices_are_stored_as_asked_and_norms_in_full(wide: Callable[..., Path], tmp_path: Path) -> None:
    write_gguf(source_of(wide()), tmp_path / FILE, "q4_0")
    tensors = read_gguf(tmp_path / FILE).tensors
    assert tensors["blk.0.attn_q.weight"].kind == Kind.Q4_0
    assert tensors["token_embd.weight"].kind == Kind.Q8_0
    assert tensors["output_norm.weight"].kind == Kind.F32
    assert "output.weight" not in tensors  # tied


def test_rows_that_fill_no_block_are_kept_in_float16(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_gguf(source_of(model_folder("llama")), tmp_path / FILE, "q8_0")
    tensors = read_gguf(tmp_path / FILE).tensors
    assert tensors["blk.0.attn_q.weight"].kind == Kind.F16  # 48 columns
    assert tensors["blk.0.ffn_down.weight"].kind == Kind.Q8_0  # 96 columns


def test_the_metadata_name_what_llama_cpp_needs(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_gguf(source_of(model_folder("qwen3")), tmp_path / FILE, "f16")
    metadata = read_gguf(tmp_path / FILE).metadata
    assert metadata["general.architecture"] == "qwen3"
    assert metadata["qwen3.attention.key_length"] == 12
    assert metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert metadata["tokenizer.ggml.eos_token_id"] == 2
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert len(metadata["tokenizer.ggml.tokens"]) == 512  # as many as embedding rows, the unused ones included


def test_llama_3_factors_are_those_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = CONFIG_MAPPING["llama"](hidden_size=64, num_attention_heads=4, head_dim=16, rope_parameters=LLAMA3)
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / 10_000.0 ** (torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(plain / torch.from_numpy(rope_factors(config)), theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "kind, word", [("gpt2", "its type is gpt2"), ("mistral", "sliding window")]
)  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    model_folder: Callable[[str], Path], tmp_path: Path, kind: str, word: str
) -> None:
    with pytest.raises(ModelError, match=word):
        write_gguf(source_of(model_folder(kind)), tmp_path / FILE, "f16")


def test_unknown_scalings_are_refused(wide: Callable[..., Path], tmp_path: Path) -> None:
    scaling = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    with pytest.raises(ModelError, match="dynamic"):
        write_gguf(source_of(wide(rope_parameters=scaling)), tmp_path / FILE, "f16")


@needs_llama_cpp
@pytest.mark.parametrize(
    "kind, changes",
    [
        ("llama", {}), ("llama", {"rope_parameters": LLAMA3}), ("llama", {"tie_word_embeddings": False}),
        ("mistral", {"sliding_window": None}), ("qwen2", {}), ("qwen3", {}), ("gemma", {}),
        ("gemma2", {"query_pre_attn_scalar": 16, "sliding_window": 9}), ("gemma3_text", {"query_pre_attn_scalar": 16}),
        ("smollm3", {"num_hidden_layers": 4}),
    ],
)  # fmt: skip
def test_llama_cpp_computes_the_same_model(wide: Callable[..., Path], tmp_path: Path, kind: str, changes: Any) -> None:
    result = tutelage.export(
        str(wide(kind, **changes)), to="gguf:f32", out=str(tmp_path / "out"), prompts=6, max_tokens=24, texts=200
    )
    assert result["parity"]["runner"] == "llama.cpp"
    assert result["parity"]["agreement"] == 1.0
    assert result["parity"]["logit_difference"] < 0.01


@needs_llama_cpp
@pytest.mark.parametrize("precision", ["q8_0", "q4_0", "q4_k_m"])
def test_lossy_files_run_and_are_reported(wide: Callable[..., Path], tmp_path: Path, precision: str) -> None:
    folder = wide()
    result = tutelage.export(
        str(folder), to=f"gguf:{precision}", out=str(tmp_path / "out"), prompts=6, max_tokens=8, texts=50
    )
    assert result["parity"]["logit_difference"] > 0
    assert abs(result["parity"]["loss_change"]) < 0.1
