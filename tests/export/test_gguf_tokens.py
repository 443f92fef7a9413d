"""Tokenizers as GGUF metadata: the splitting rule's name, kinds of tokens, and SentencePiece merges as scores."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

import tutelage
from tutelage.errors import ModelError
from tutelage.export.gguf_tokens import _vocabulary, splitting_rule
from tutelage.models.gguf_bpe import PRE_TOKENIZERS
from tutelage.models.gguf_vocabulary import CONTROL, NORMAL, UNUSED

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog. Why is the sky blue? 12 apples, 345 pears.",
    "Straße naïve café 東京",
] * 3


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_each_known_rule_is_found_by_its_name(name: str) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[name]()
    assert splitting_rule(tokenizer) == name


def test_offsets_do_not_make_another_rule() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)]
    )
    assert splitting_rule(tokenizer) == "gpt-2"


@pytest.mark.parametrize(
    "rule", [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Split(Regex(r"\d"), "isolated")]
)
def test_an_unknown_rule_is_refused(rule: Any) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = rule
    with pytest.raises(ModelError, match="without a known name"):
        splitting_rule(tokenizer)


def test_tokens_have_their_kinds_and_unused_rows_too(model_folder: Callable[[str], Path]) -> None:
    tokenizer = Tokenizer.from_file(str(model_folder("llama") / "tokenizer.json"))
    count = tokenizer.get_vocab_size()
    tokens, kinds = _vocabulary(tokenizer, json.loads(tokenizer.to_str()), count + 2)
    assert kinds[:3] == [CONTROL] * 3
    assert kinds[3:count] == [NORMAL] * (count - 3)
    assert kinds[count:] == [UNUSED] * 2
    assert len(set(tokens)) == count + 2
    with pytest.raises(ModelError, match="more tokens than"):
        _vocabulary(tokenizer, json.loads(tokenizer.to_str()), count - 1)


def sentencepiece_model(folder: Path, prefix: bool) -> None:
    """A tiny Gemma (or, with `prefix`, Llama) whose tokenizer is SentencePiece's kind of BPE."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|im_start|>", "<|im_end|>"]
    steps = [normalizers.Prepend("▁")] if prefix else []
    normal = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    draft = Tokenizer(models.BPE(unk_token="<unk>"))
    draft.normalizer = normal
    draft.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=160, special_tokens=special, show_progress=False))
    learnt = json.loads(draft.to_str())["model"]
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    vocabulary = {token: i for i, token in enumerate([*special, *byte_tokens])}
    for token in sorted(learnt["vocab"], key=learnt["vocab"].get):
        vocabulary.setdefault(token, len(vocabulary))
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normal
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<|im_end|>", pad_token="<pad>", unk_token="<unk>",
        chat_template=CHATML, additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    config = CONFIG_MAPPING["llama" if prefix else "gemma"](
        vocab_size=len(vocabulary) + 8, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, bos_token_id=2, eos_token_id=5, pad_token_id=0, max_position_embeddings=512,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python builds from source")
@pytest.mark.parametrize("prefix", [False, True])
def test_sentencepiece_merges_survive_as_scores(tmp_path: Path, prefix: bool) -> None:
    """Rank by rank: llama.cpp tokenises 2,000 hard texts exactly as the merges do."""
    folder = tmp_path / "model"
    folder.mkdir()
    sentencepiece_model(folder, prefix)
    result = tutelage.export(str(folder), to="gguf:f32", out=str(tmp_path / "out"), prompts=4, max_tokens=8, texts=2000)
    assert result["parity"]["same_texts"] == 2000
