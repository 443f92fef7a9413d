from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from tutelage.generate.text import Decoder, StopTexts, pieces


def given_ids(ids: list[int], reason: str = "stop") -> Generator[int, None, str]:
    yield from ids
    return reason


def collect(text: Generator[str, None, str]) -> tuple[list[str], str]:
    found = []
    while True:
        try:
            found.append(next(text))
        except StopIteration as end:
            return found, end.value


@pytest.fixture(scope="module")
def tokenizer(model_folder: Callable[[str], Path]) -> Any:
    return AutoTokenizer.from_pretrained(model_folder("llama"))


@settings(deadline=None, max_examples=150)
@given(text=st.text())
def test_pieces_add_up_and_none_ends_in_half_a_character(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    found, reason = collect(pieces(given_ids(ids), tokenizer.decode))
    assert "".join(found) == text
    assert reason == "stop"
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in found)


def test_bytes_of_one_character_come_as_one_piece(tokenizer: Any) -> None:
    ids = tokenizer.encode("a🙂b", add_special_tokens=False)
    assert len(ids) == 6  # the smiley is four tokens here
    assert collect(pieces(given_ids(ids), tokenizer.decode))[0] == ["a", "🙂", "b"]


def test_an_answer_cut_inside_a_character_still_gives_what_there_is(tokenizer: Any) -> None:
    ids = tokenizer.encode("a🙂", add_special_tokens=False)[:-1]
    found, reason = collect(pieces(given_ids(ids, "length"), tokenizer.decode))
    assert "".join(found) == tokenizer.decode(ids)
    assert found[0] == "a"
    assert reason == "length"


def test_each_piece_comes_before_the_next_id_is_asked_for(tokenizer: Any) -> None:
    asked = []

    def ids() -> Generator[int, None, None]:
        for i in tokenizer.encode("one two", add_special_tokens=False):
            asked.append(i)
            yield i

    assert next(pieces(ids(), tokenizer.decode))
    assert len(asked) == 1


def test_spaces_survive_a_decoder_that_drops_the_first_one() -> None:
    vocabulary = {"▁a": 0, "▁b": 1, "c": 2, "<unk>": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    found, _ = collect(pieces(given_ids([0, 1, 2, 0]), tokenizer.decode))
    assert "".join(found) == tokenizer.decode([0, 1, 2, 0]) == "a bc a"


def test_an_empty_stream_gives_nothing(tokenizer: Any) -> None:
    assert collect(pieces(given_ids([]), tokenizer.decode)) == ([], "stop")


@given(
    pieces=st.lists(st.text("ab<>", max_size=4), max_size=12),
    stops=st.lists(st.text("ab<>", min_size=1, max_size=3), max_size=3),
)
def test_what_comes_through_ends_before_the_first_stop_text(pieces: list[str], stops: list[str]) -> None:
    """However the text is cut into pieces."""
    stream = StopTexts(stops)
    out = "".join(stream.push(piece) for piece in pieces)
    whole = "".join(pieces)
    ends = [at for stop in stops if (at := whole.find(stop)) >= 0]
    if stream.stopped:
        assert any(whole.startswith(out) and whole[len(out) :].startswith(stop) for stop in stops)
        assert not any(stop in out for stop in stops)
    else:
        assert not ends
        assert out + stream.finish() == whole


def test_only_what_may_become_a_stop_text_is_held_back() -> None:
    stream = StopTexts(["END"])
    assert stream.push("The E") == "The "
    assert stream.push("N") == ""
    assert stream.push("T") == "ENT"
    assert stream.push("  EN") == "  "
    assert stream.push("D of it") == ""
    assert stream.stopped
    assert stream.push("more") == ""


@given(st.text(max_size=30), st.lists(st.integers(0, 4), max_size=60))
def test_ids_in_bursts_give_the_same_text_as_all_at_once(text: str, sizes: list[int]) -> None:
    ids = list(text.encode())
    decoder, told, at = Decoder(lambda ids: bytes(ids).decode(errors="replace")), "", 0
    for size in sizes:
        told += decoder.push(*ids[at : at + size])
        at += size
        assert text.startswith(told)
    told += decoder.push(*ids[at:])
    assert told + decoder.finish() == text
