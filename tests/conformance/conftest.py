"""Tiny models of each kind and rows for each task, made on the spot."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.marian import make_marian

WORDS = [
    "the",
    "sky",
    "is",
    "blue",
    "rain",
    "fell",
    "on",
    "harbour",
    "all",
    "night",
    "ada",
    "lives",
    "in",
    "london",
    "bob",
    "went",
    "to",
    "rome",
    "when",
    "was",
    "bridge",
    "built",
    "who",
    "good",
    "bad",
    "fine",
    "terrible",
    "lovely",
    "parcel",
    "never",
    "came",
    "thanks",
    "for",
    "help",
    "where",
    "it",
    "1890",
    "1912",
    "by",
    "sea",
    "and",
    "wind",
    "light",
    "a",
]


def make_encoder(folder: Path, kind: str = "bert") -> None:
    """A random encoder of two layers with an uncased WordPiece tokenizer."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForMaskedLM, PreTrainedTokenizerFast

    from tutelage.models.bert_files import SPECIAL, wordpiece

    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,?!-")
    tokens = [*SPECIAL.values(), *letters, *(f"##{c}" for c in letters), *(w for w in WORDS if len(w) > 1)]
    fast = PreTrainedTokenizerFast(tokenizer_object=wordpiece(tokens), **SPECIAL)
    fast.save_pretrained(folder)
    sizes = {
        "vocab_size": len(tokens), "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 130, "initializer_range": 0.15,
        "pad_token_id": fast.pad_token_id,
    }  # fmt: skip
    if kind == "distilbert":
        sizes = {**sizes, "dim": 48, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
    if kind == "modernbert":
        special = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        sizes = {**sizes, **special, "local_attention": 8, "global_attn_every_n_layers": 2}
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(CONFIG_MAPPING[kind](**sizes)).save_pretrained(folder)


def make_pair_model(folder: Path, kind: str = "t5") -> None:
    """A random encoder-decoder with a byte-level tokenizer that ends every text in </s>."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)
    shared = {"vocab_size": 384, "d_model": 48, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    sizes: dict[str, dict[str, Any]] = {
        "t5": {"d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"},
        "bart": {
            "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_position_embeddings": 130, "init_std": 0.15,
            "bos_token_id": 0, "forced_eos_token_id": None,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    AutoModelForSeq2SeqLM.from_config(CONFIG_MAPPING[kind](**shared, **sizes[kind])).save_pretrained(folder)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, model_folder: Callable[[str], Path]) -> Callable[[str], Path]:
    """A function from an architecture to a folder with a tiny model of it."""
    folders: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind in ("llama", "qwen3", "gpt2"):
            return model_folder(kind)
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(f"model-{kind}")
            if kind in ("marian", "marian-two"):
                lines = (["say: ", *(row[side] for row in ROWS["seq2seq"])] for side in ("source", "target"))
                make_marian(folders[kind], *lines, separate=kind == "marian-two")
            else:
                (make_pair_model if kind in ("t5", "bart") else make_encoder)(folders[kind], kind)
        return folders[kind]

    return folder


LABELLED = [
    ("lovely sky", "good"), ("rain fell all night", "bad"), ("the light is fine", "good"), ("terrible wind", "bad"),
    ("thanks for the help", "good"), ("the parcel never came", "bad"), ("good sea", "good"), ("bad harbour", "bad"),
]  # fmt: skip
ROWS: dict[str, list[dict[str, Any]]] = {
    "classify": [{"text": text, "label": label} for text, label in LABELLED],
    "several": [{"text": text, "labels": [label, "short"] if len(text) < 15 else [label]} for text, label in LABELLED],
    "score": [{"text": text, "score": i / 4} for i, (text, _) in enumerate(LABELLED)],
    "preference": [{"chosen": a, "rejected": b} for (a, _), (b, _) in zip(LABELLED[::2], LABELLED[1::2])] * 2,
    "tag": [
        {"tokens": f"{who} went to {place}".split(), "tags": ["B-person", "O", "O", "B-place"]}
        for who in ("ada", "bob") for place in ("london", "rome", "sea", "harbour")
    ],
    "extract": [
        {"context": f"the bridge was built in {year} by {who}", "question": question,
         "answers": {"text": [answer], "answer_start": [f"the bridge was built in {year} by {who}".index(answer)]}}
        for year in ("1890", "1912") for who in ("ada", "bob")
        for question, answer in (("when was the bridge built", year), ("who built it", who))
    ],
    "seq2seq": [{"source": f"{who} in {place}", "target": f"{place} {who}"}
                for who in ("ada", "bob") for place in ("london", "rome", "sea", "harbour")],
    "text": [{"text": f"{text} and {label} light by the sea"} for text, label in LABELLED],
}  # fmt: skip
ROWS["verbalised"] = ROWS["classify"]


@pytest.fixture
def rows_file(tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes the rows of a case as JSON Lines."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]), encoding="utf-8")
        return path

    return write
