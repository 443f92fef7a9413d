"""Hashes of words from the bytes of a text, against the polynomial written out and Python's own split."""

import pytest

from tutelage.data.quality import wordhash
from tutelage.data.quality.wordhash import BLOCK, word_hashes


def plain(word: str) -> int:
    """The hash of one word: the polynomial of the module's docstring, mixed."""
    value = sum(byte * pow(wordhash._POINT, place, 2**64) for place, byte in enumerate(word.encode())) % 2**64
    return (value ^ value >> 32) * int(wordhash._MIX) % 2**64


TEXTS = ["", "one", " two  words ", "\n", "one two\tthree\n", "größer 你 好 \ud83d\ude00", "a", "", "ab ba"]


def test_the_hash_is_the_polynomial_of_the_words_bytes() -> None:
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16") for text in TEXTS]
    hashes, counts = word_hashes(texts)
    assert counts.tolist() == [len(text.split()) for text in texts]
    assert hashes.tolist() == [plain(word) for text in texts for word in text.split()]


@pytest.mark.parametrize("before", [0, BLOCK - 3, BLOCK - 2, BLOCK - 1, BLOCK, 3 * BLOCK])
def test_words_at_the_edge_of_a_block_and_longer_than_one_have_the_same_hash(before: int) -> None:
    hashes, counts = word_hashes(["x" * before + " edge", "y " * BLOCK, "last"])
    assert counts.tolist() == [1 + bool(before), BLOCK, 1]
    assert hashes[int(bool(before))] == plain("edge")
    assert hashes[-1] == plain("last")
    if before:
        assert hashes[0] == word_hashes(["x" * before])[0][0]


def test_no_words_give_no_hashes() -> None:
    hashes, counts = word_hashes([])
    assert len(hashes) == len(counts) == 0
    assert word_hashes(["", " "])[1].tolist() == [0, 0]


def test_half_a_surrogate_is_a_word_like_any_other() -> None:
    assert word_hashes(["\ud800 \ud801"])[1].tolist() == [2]


def test_a_hundred_thousand_words_have_as_many_hashes() -> None:
    hashes, _ = word_hashes([" ".join(f"word{i}" for i in range(100_000))])
    assert len(set(hashes.tolist())) == 100_000
