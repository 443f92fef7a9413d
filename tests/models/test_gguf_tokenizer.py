"""The converted tokenizer against an implementation of the known rule that shares no code with it."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tutelage.models.gguf_convert import convert_gguf
from tutelage.models.gguf_reader import read_gguf

GPT2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
NUMERALS = regex.compile(r"\p{N}|[^\p{N}]+")
HARD = [
    "", " ", "\n", "3", "42", "3.14159", "1,000,000", "2nd 3rd", "v2.0.1-rc3", "a1b2c3", "10:45am", "\n\n3.",
    "\n\n3. Then", "one\n\n\n\n2. two", "  3  4  ", " 5", "\t6", "7\t", "8\r\n9", "   leading", "trailing   ",
    "a   b", "a \n b", "\n \n", "\t\t\tx", "x\u00a0y", "\u2003wide", "\u3000全角", "½ cup", "²³¹", "Ⅳ and ⅷ",
    "٣٤٥", "१२३", "①②③", "𝟙𝟚", "10²", "五六七", "〇一", "I'm you're he's we've they'll I'd isn't", "I'M YOU'RE",
    "''s 't' ' s", "don’t", "rock'n'roll", "👩‍🚀🚀", "👨‍👩‍👧‍👦 family 4", "🇩🇪🇫🇷", "a👍🏽b", "e\u0301 é",
    "Straße naïve", "你好，世界！3个", "東京タワー333m", "안녕 2세", "مرحبا ١٢", "שלום 7", "हिन्दी ४२", "ไทย ๙",
    "$5.00 (10%)", "x=3*(y+4)**2", "https://a.b/c?d=1&e=2", "#1 @2 !3", "def f(x):\n    return x + 1\n",
    "```python\n1\n```", "--- 3 ---", "...", "…3…", "_1_", "\u200b3\u200b", "\ufeffBOM 1", "\x00\x01 2",
    "a\x1cb", "\x85 next", "mixed123abc٤٥٦Ⅷ½ 世界9  \n\n10.", "The year 1969\n\n\n1. First\n2. Second",
]  # fmt: skip


class Reference:
    """Pieces by the rule, then the merge of lowest rank first: written from the definition, for these tests."""

    def __init__(self, tokens: list[str], merges: list[tuple[str, str]], digits_alone: bool) -> None:
        self.ids = {token: number for number, token in enumerate(tokens)}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.digits_alone = digits_alone
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self.letters = {byte: chr(byte) for byte in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}

    def pieces(self, text: str) -> list[str]:
        parts = NUMERALS.findall(text) if self.digits_alone else [text]
        return [piece for part in parts for piece in GPT2.findall(part)]

    def encode(self, text: str) -> list[int]:
        assert "".join(self.pieces(text)) == text
        ids = []
        for piece in self.pieces(text):
            symbols = [self.letters[byte] for byte in piece.encode()]
            while len(symbols) > 1:
                ranked = [(self.ranks.get(pair, 1 << 30), at) for at, pair in enumerate(pairwise(symbols))]
                rank, at = min(ranked)
                if rank == 1 << 30:
                    break
                symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            ids += [self.ids[symbol] for symbol in symbols]
        return ids


@pytest.fixture(scope="module", params=["smollm", "gpt-2"])
def pair(request, make_gguf, tmp_path_factory) -> tuple[Tokenizer, Reference]:
    folder = tmp_path_factory.mktemp(request.param)
    made = make_gguf(folder / "m.gguf", pre=request.param)
    convert_gguf(made.path, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tokenizer, Reference(made.tokens, made.merges, request.param == "smollm")


def test_hard_texts_become_the_tokens_of_the_rule(pair):
    tokenizer, reference = pair
    wrong = [text for text in HARD if tokenizer.encode(text).ids != reference.encode(text)]
    assert wrong == []
    assert [text for text in HARD if tokenizer.decode(tokenizer.encode(text).ids) != text] == []


PARTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=8),
    st.sampled_from(["\n\n", "  ", "3.", " 12", "'s", "½", "世界", "👩‍🚀", "\t", "the ", "\r\n", "٣", "don't"]),
)


@given(st.lists(PARTS, max_size=12).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_becomes_the_tokens_of_the_rule(pair, text):
    tokenizer, reference = pair
    assert tokenizer.encode(text).ids == reference.encode(text)


def test_the_two_rules_differ_where_it_matters(make_gguf, tmp_path):
    made = make_gguf(tmp_path / "m.gguf")
    alone, together = (Reference(made.tokens, made.merges, flag) for flag in (True, False))
    assert alone.pieces("one\n\n3. 12") == ["one", "\n\n", "3", ".", " ", "1", "2"]
    assert together.pieces("one\n\n3. 12") == ["one", "\n", "\n", "3", ".", " 12"]


@pytest.mark.slow
def test_the_real_tokenizer_follows_the_rule(real_model: Path, tmp_path: Path):
    tokenizer = Tokenizer.from_file(str(real_model / "tokenizer.json"))
    model = json.loads((real_model / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    reference = Reference(tokens, [(a, b) for a, b in model["merges"]], digits_alone=True)
    # This vocabulary lacks a few single bytes that no valid text of its training set had.
    known = [text for text in HARD if all(reference.letters[byte] in reference.ids for byte in text.encode())]
    assert len(known) > len(HARD) - 8
    assert [text for text in known if tokenizer.encode(text).ids != reference.encode(text)] == []


def test_the_header_is_what_the_writer_wrote(tiny):
    header = read_gguf(tiny.path)
    assert header.metadata["tokenizer.ggml.tokens"] == tiny.tokens
    assert header.metadata["tokenizer.ggml.add_bos_token"] is False
