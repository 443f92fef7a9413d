"""A tiny random Marian model with two SentencePiece models, and one vocabulary over the pieces of both languages or one for each.
Special tokens come first, so that they have the same numbers in both."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import AutoModelForSeq2SeqLM, MarianConfig


def make_marian(
    folder: Path, sources: Sequence[str], targets: Sequence[str], *, separate: bool = False, codes: Sequence[str] = ()
) -> None:
    """Fill `folder`. `codes`: language codes such as `>>fra<<`, which stand in the vocabulary and in neither model."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [_train(lines, folder / name) for lines, name in ((sources, "source.spm"), (targets, "target.spm"))]
    first, second = (
        (_numbered(pieces[:1], codes), _numbered(pieces[1:])) if separate else (_numbered(pieces, codes), {})
    )
    (folder / "vocab.json").write_text(json.dumps(first), encoding="utf-8")
    if separate:
        (folder / "target_vocab.json").write_text(json.dumps(second), encoding="utf-8")
    settings = {"source_lang": "eng", "target_lang": "deu", "separate_vocabs": separate}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    torch.manual_seed(0)
    pad = first["<pad>"]
    apart: dict[str, Any] = {
        "decoder_vocab_size": len(second), "share_encoder_decoder_embeddings": False, "tie_word_embeddings": False,
    }  # fmt: skip
    config = MarianConfig(
        vocab_size=len(first), d_model=48, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, max_position_embeddings=130, init_std=0.15,
        pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0, scale_embedding=True,
        static_position_embeddings=True, activation_function="swish", **(apart if separate else {}),
    )  # fmt: skip
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)


def _train(lines: Sequence[str], file: Path) -> list[str]:
    """Write a SentencePiece model of the lines; returns its pieces without the special ones."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=made, vocab_size=200, hard_vocab_limit=False, minloglevel=2
    )
    file.write_bytes(made.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    return [model.id_to_piece(i) for i in range(len(model)) if not (model.is_control(i) or model.is_unknown(i))]


def _numbered(lists: Sequence[Sequence[str]], codes: Sequence[str] = ()) -> dict[str, int]:
    ordered = dict.fromkeys(["</s>", "<unk>", "<pad>", *codes, *(piece for pieces in lists for piece in pieces)])
    return {piece: number for number, piece in enumerate(ordered)}
