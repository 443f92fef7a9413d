"""Text files that are no tables: CoNLL, paragraphs, SQuAD and parallel files become rows with their places."""

import json
from pathlib import Path
from typing import Any

import pytest

from tutelage.data.prepare import prepare
from tutelage.data.rows import Labelled, Pair, Plain, Preference, Question, Tagged
from tutelage.data.types import Conversation
from tutelage.errors import DataError
from tutelage.recipe import DataSpec


def rows(path: Path, *accepts: type, **source: Any) -> tuple[Any, ...]:
    return prepare(DataSpec(train=[{"path": str(path), **source}]), seed=0, accepts=lambda _: accepts).train


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_conll_sentences_end_at_blank_lines_of_any_kind(tmp_path: Path) -> None:
    text = "-DOCSTART-\tO\n\nAda\tB-person\nlives\tO\n\t\n\ufeffin\tO\nRome\tB-place\n"
    first, second = rows(write(tmp_path / "a.conll", text), Tagged)
    assert (first.words, first.tags, first.at.row) == (("Ada", "lives"), ("B-person", "O"), 3)
    assert (second.words, second.at.row) == (("in", "Rome"), 6)


def test_conll_with_spaces_and_four_columns(tmp_path: Path) -> None:
    (row,) = rows(write(tmp_path / "eng.testa", "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n"), Tagged, format="tagged")
    assert row.tags == ("B-ORG", "O")


@pytest.mark.parametrize("line, words", [("Ada", "no tag"), ("\tO", "no word")])
def test_conll_lines_that_cannot_be_read(line: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        rows(write(tmp_path / "a.conll", f"Rome\tB-place\n{line}\n"), Tagged)
    assert caught.value.problems[0].where.endswith("a.conll:2")


def test_unequal_tags_name_their_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"tokens": ["a", "b"], "tags": ["O"]}) + "\n")
    with pytest.raises(DataError, match="2 words and 1 tags") as caught:
        rows(path, Tagged)
    assert caught.value.problems[0].where.endswith("a.jsonl:1")


def test_entities_become_bio_tags(tmp_path: Path) -> None:
    row = {"text": "Ada Byron met Babbage.", "entities": [{"start": 0, "end": 9, "label": "person"},
                                                            {"start": 14, "end": 21, "label": "person"}]}  # fmt: skip
    (tagged,) = rows(write(tmp_path / "a.jsonl", json.dumps(row) + "\n"), Tagged)
    assert tagged.words == ("Ada", "Byron", "met", "Babbage", ".")
    assert tagged.tags == ("B-person", "I-person", "O", "B-person", "O")


def test_paragraphs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\none\ntwo\n\n\nthree\n")
    assert [(row.text, row.at.row) for row in rows(path, Plain)] == [("one\ntwo", 2), ("three", 6)]


def test_squad_is_flattened_and_its_answers_are_checked(tmp_path: Path) -> None:
    def squad(start: int) -> str:
        asked = [{"id": "1", "question": "When?", "answers": [{"text": "1890", "answer_start": start}]},
                 {"id": "2", "question": "Who?", "answers": [], "is_impossible": True}]  # fmt: skip
        return json.dumps({"data": [{"title": "t", "paragraphs": [{"context": "Built in 1890.", "qas": asked}]}]})

    first, second = rows(write(tmp_path / "a.json", squad(9)), Question)
    assert (first.answers, second.answers) == ((("1890", 9),), ())
    with pytest.raises(DataError, match="does not stand at character 3") as caught:
        rows(write(tmp_path / "b.json", squad(3)), Question)
    assert caught.value.problems[0].where.endswith("b.json:1")
    assert "should be 9" in caught.value.problems[0].fix


def test_parallel_files(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.en", "Good morning\nThanks\n"), write(tmp_path / "a.de", "Guten Morgen\nDanke\n")
    assert [(r.source, r.targets, r.at.row) for r in rows(one, Pair, target=str(two))] == [
        ("Good morning", ("Guten Morgen",), 1), ("Thanks", ("Danke",), 2),
    ]  # fmt: skip
    with pytest.raises(DataError, match="no such line") as caught:
        rows(one, Pair, target=str(write(tmp_path / "b.de", "Guten Morgen\n")))
    assert caught.value.problems[0].where.endswith("a.en:2")


def test_an_empty_reference_names_its_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="target of this row is empty") as caught:
        rows(write(tmp_path / "a.csv", "source,target\na,b\nc, \n"), Pair)
    assert caught.value.problems[0].where.endswith("a.csv:3")


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"text": "a", "label": 3}, ("3",)), ({"sentence": "a", "category": " x "}, ("x",)),
        ({"text": "a", "labels": ["x", "y"]}, ("x", "y")), ({"text": "a", "label": True}, ("true",)),
        ({"text": "a", "labels": []}, ()),
    ],
)  # fmt: skip
def test_labels(row: dict[str, object], expected: tuple[str, ...], tmp_path: Path) -> None:
    (made,) = rows(write(tmp_path / "a.jsonl", json.dumps(row) + "\n"), Labelled)
    assert made.labels == expected


def test_scores_and_preferences(tmp_path: Path) -> None:
    (scored,) = rows(write(tmp_path / "a.csv", "text,score\na,0.5\n"), Labelled)
    assert scored.score == 0.5
    (better,) = rows(write(tmp_path / "a.jsonl", '{"chosen": "a", "rejected": "b"}\n'), Preference)
    assert (better.better, better.worse) == ("a", "b")


def test_a_task_that_reads_other_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="questions with answers") as caught:
        rows(write(tmp_path / "a.csv", "prompt,response\na,b\n"), Labelled)
    assert caught.value.problems[0].fix == "task: chat"
    with pytest.raises(DataError, match="texts with a label") as caught:
        rows(write(tmp_path / "b.csv", "text,label\na,b\n"), Conversation)
    assert caught.value.problems[0].fix.startswith("task: classify")


def test_equal_texts_never_straddle_a_split(tmp_path: Path) -> None:
    lines = "".join(f"text {i % 20},{i % 3}\n" for i in range(100))
    prepared = prepare(
        DataSpec(train=[str(write(tmp_path / "a.csv", "text,label\n" + lines))], validation=0.3),
        seed=0,
        accepts=lambda _: (Labelled,),
    )
    train, held = ({row.text for row in part} for part in (prepared.train, prepared.validation))
    assert train
    assert held
    assert not train & held
