"""Sources and targets as tokens: one tokenizer for both, and Marian's two."""

from pathlib import Path

import pytest

from tests.marian import make_marian
from tutelage.encode.pairs import pair_tokens
from tutelage.models.load import load_tokenizer

ENGLISH = ["The boat is old.", "A red house by the sea", "Where do you live?", "I was born in May."] * 5
GERMAN = ["Das Boot ist alt.", "Ein rotes Haus am Meer", "Wo wohnst du?", "Ich wurde im Mai geboren."] * 5
CONFIG = {"model_type": "marian", "max_position_embeddings": 130}


@pytest.fixture(scope="module", params=[False, True], ids=["one vocabulary", "two"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("marian")
    make_marian(made, ENGLISH, GERMAN, separate=request.param, codes=[">>deu<<"])
    return made


def test_marian_reads_with_one_model_and_writes_with_the_other(folder: Path) -> None:
    """Piece for piece what SentencePiece says, numbered by the vocabularies."""
    tokenizer = load_tokenizer(folder)
    tokens = pair_tokens(tokenizer, CONFIG, 1000)
    written = tokenizer.target_encoder if tokenizer.separate_vocabs else tokenizer.encoder
    for text in (*ENGLISH[:4], *GERMAN[:4], "", "   ", "Zürich 漢字", "a\nb"):
        for ids, model, numbers in (
            (tokens.read([text])[0], tokenizer.spm_source, tokenizer.encoder),
            (tokens.write([text])[0], tokenizer.spm_target, written),
        ):
            pieces = model.encode(text, out_type=str)
            assert ids == [*(numbers.get(piece, numbers["<unk>"]) for piece in pieces), numbers["</s>"]]
    assert tokens.read(ENGLISH[:2])[0] != tokens.write(ENGLISH[:2])[0]
    assert tokens.limit == 130
    assert tokens.read([]) == tokens.write([]) == []


def test_what_marian_wrote_is_text_again(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokens = pair_tokens(tokenizer, CONFIG, 1000)
    for source, target in zip(ENGLISH[:4], GERMAN[:4]):
        assert tokens.shown(tokens.read([source])[0]) == source
        assert tokenizer.decode(tokens.write([target])[0], skip_special_tokens=True) == target


def test_control_tokens_in_a_text_are_text_and_a_language_code_is_a_token(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokens = pair_tokens(tokenizer, CONFIG, 1000)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    for ids in (*tokens.read(["a </s> b <pad>", "</s>"]), *tokens.write(["a </s> b <pad>", "</s>"])):
        assert ids.count(end) == 1
        assert pad not in ids
    plain, coded = tokens.read(["The boat is old.", ">>deu<< The boat is old."])
    assert coded == [tokenizer.encoder[">>deu<<"], *plain]


def test_a_source_that_is_cut_keeps_the_end(folder: Path) -> None:
    tokens = pair_tokens(load_tokenizer(folder), CONFIG, 6)
    whole = tokens.read(["A red house by the sea"])[0]
    assert tokens.cut(whole) == [*whole[:5], whole[-1]]


def test_the_saved_tokenizer_is_the_same(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    saved, first = (pair_tokens(each, CONFIG, 1000) for each in (load_tokenizer(tmp_path), tokenizer))
    assert saved.read(ENGLISH) == first.read(ENGLISH)
    assert saved.write(GERMAN) == first.write(GERMAN)
