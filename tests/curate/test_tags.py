"""Wrong tags, with a tiny encoder; bench/data/tags.py measures the real one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

import tutelage
from tests.curate.test_labels import encoder, quiet
from tutelage.curate.tags import embed_words, find_tag_issues
from tutelage.data.rows import Tagged
from tutelage.data.types import At
from tutelage.errors import DataError

pytest.importorskip("cleanlab")
__all__ = ["encoder"]  # a fixture


@pytest.fixture(scope="module")
def plain(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random encoder without its noise: a state depends on the word alone, as it mostly does in a trained one."""
    folder = tmp_path_factory.mktemp("plain") / "encoder"
    shutil.copytree(encoder, folder)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False)
    with torch.no_grad():
        model.encoder.layer[0].attention.output.dense.weight.zero_()
        model.embeddings.position_embeddings.weight.zero_()
    model.save_pretrained(folder)
    return folder


def rows_of(count: int) -> list[Tagged]:
    """Rows whose words' colours are their tags."""
    draw = np.random.default_rng(3)
    rows = []
    for i in range(count):
        kinds = draw.choice(["red", "blue"], int(draw.integers(3, 8))).tolist()
        words = tuple(f"{kind}{draw.integers(0, 6)}" for kind in kinds)
        rows.append(Tagged(words, tuple("B-red" if kind == "red" else "O" for kind in kinds), At("a.jsonl", i + 1)))
    return rows


def flip(rows: list[Tagged], share: float) -> tuple[list[Tagged], set[tuple[int, int]]]:
    draw = np.random.default_rng(5)
    flipped: set[tuple[int, int]] = set()
    result = []
    for row in rows:
        tags = list(row.tags)
        for word in np.flatnonzero(draw.random(len(tags)) < share).tolist():
            tags[word] = "O" if tags[word] != "O" else "B-red"
            flipped.add((row.at.row, word + 1))
        result.append(Tagged(row.words, tuple(tags), row.at))
    return result, flipped


def test_every_word_has_a_vector_of_its_own(encoder: Path) -> None:
    rows = [Tagged(("red1", "blue2", "red1"), ("O", "O", "O"), At("a", 1)), Tagged(("blue2",), ("O",), At("a", 2))]
    vectors, places = embed_words(rows, encoder, quiet)
    assert sorted(map(tuple, places.tolist())) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not np.allclose(vectors[places[:, 0] == 0][0], vectors[places[:, 0] == 0][1])


def test_flipped_tags_are_found(plain: Path) -> None:
    rows, flipped = flip(rows_of(120), 0.05)
    issues = find_tag_issues(rows, plain, quiet)
    found = {(each.issue.at.row, each.word) for each in issues}
    assert len(found & flipped) >= 0.8 * len(flipped)
    assert len(found & flipped) >= 0.8 * len(found)
    first = issues[0]
    assert f"[{rows[first.issue.at.row - 1].words[first.word - 1]}]" in first.issue.text
    assert first.issue.label == rows[first.issue.at.row - 1].tags[first.word - 1] != first.issue.suggested


def test_the_verb_lists_them_and_review_names_the_words(plain: Path, tmp_path: Path) -> None:
    rows, flipped = flip(rows_of(60), 0.05)
    file = tmp_path / "a.jsonl"
    lines = [json.dumps({"tokens": list(row.words), "tags": list(row.tags)}) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = tutelage.data_check(str(file), labels=True, encoder=str(plain), processes=1)
    assert {"wrong_label"} <= {finding["kind"] for finding in result["findings"]}
    assert {(each["row"], each["word"]) for each in result["label_issues"]} & flipped
    (tmp_path / "checked.json").write_text(json.dumps({"label_issues": result["label_issues"]}), encoding="utf-8")
    listed = tmp_path / "list.csv"
    tutelage.data_review(str(file), flagged=str(tmp_path / "checked.json"), to_csv=str(listed))
    assert "is likely not" in listed.read_text(encoding="utf-8")


def test_too_little_to_judge_is_a_sentence(encoder: Path) -> None:
    with pytest.raises(DataError, match="tags cannot be judged"):
        find_tag_issues(rows_of(3), encoder, quiet)
