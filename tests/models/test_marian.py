"""A Marian model's tokenizer files: what is missing or damaged is named."""

import sys
from pathlib import Path

import pytest

from tests.marian import make_marian
from tutelage.errors import ModelError, TutelageError
from tutelage.models.load import load_tokenizer
from tutelage.models.marian import is_marian


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_marian(tmp_path / "opus", ["a boat by the sea"] * 5, ["ein Boot am Meer"] * 5)
    return tmp_path / "opus"


def test_a_folder_with_tokenizer_json_is_read_by_that(folder: Path) -> None:
    assert is_marian(folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert not is_marian(folder)


def test_every_missing_file_is_named(folder: Path) -> None:
    for name in ("source.spm", "vocab.json"):
        (folder / name).unlink()
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert [p.what for p in caught.value.problems] == [
        "this folder has no source.spm", "this folder has no vocab.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("target.spm", b"not a SentencePiece model", "the tokenizer cannot be loaded"),
        ("source.spm", b"", "the tokenizer cannot be loaded"),
        ("vocab.json", b'{"<unk>": "one"}', "this vocabulary is not one"),
        ("vocab.json", b'{"a": 1}', "this vocabulary is not one"),
        ("vocab.json", b'{"<unk>": true}', "this vocabulary is not one"),
        ("vocab.json", b"[1]", "this is not a JSON object"),
        ("vocab.json", b'{"<unk>": 1', "this is not JSON"),
    ],
)
def test_a_damaged_file_is_a_sentence(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        load_tokenizer(folder)
    assert caught.value.problems[0].fix


def test_without_sentencepiece_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(TutelageError) as caught:
        load_tokenizer(folder)
    assert caught.value.problems[0].fix == "pip install 'tutelage[marian]'"
