"""Baselines, slices, confusion, rows to read, files of predictions, label-next: on predictions made by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tutelage.data.types import At
from tutelage.errors import DataError
from tutelage.evaluate.baselines import BASELINES
from tutelage.evaluate.comparing import compare_predictions
from tutelage.evaluate.confusion import confusion, per_class, per_entity
from tutelage.evaluate.examples import changed, worst
from tutelage.evaluate.files import read_predictions, write_predictions
from tutelage.evaluate.label_next import as_rows, label_next, uncertainty
from tutelage.evaluate.scoring import metrics_for, score
from tutelage.evaluate.slices import OTHER, slices
from tutelage.metrics import Likelihood, Prediction
from tutelage.metrics.types import Value


def row(number: int, text: str, right: Value, given: Value, **more: object) -> Prediction:
    return Prediction(At("test.jsonl", number), text, right, given, **more)  # type: ignore[arg-type]


LABELS = [
    row(1, "my card is gone", "card", "card"),
    row(2, "I cannot log in today at all", "login", "card"),
    row(3, "the invoice is wrong, and it is the second time", "billing", "billing"),
    row(4, "log in fails", "login", "login"),
    row(5, "where is my card", "card", "login"),
    row(6, "card", "card", "card"),
]
ANSWERS = [
    row(1, "First sentence. Second one.", "first sentence", "something else"),
    row(2, "Only one sentence", "only one sentence", "only one"),
    row(3, "Is it? Yes.", "yes", "yes"),
]


def test_baselines_do_what_they_say() -> None:
    given = BASELINES.get("majority")(LABELS, ["login", "login", "card"])
    assert {one.output for one in given} == {"login"}
    assert {one.output for one in BASELINES.get("majority")(LABELS, ())} == {"card"}
    assert [one.output for one in BASELINES.get("lead")(ANSWERS, ())] == [
        "First sentence.",
        "Only one sentence",
        "Is it?",
    ]
    assert [one.output for one in BASELINES.get("copy")(ANSWERS, ())] == [one.input for one in ANSWERS]
    numbers = [row(1, "a", 1.0, 5.0), row(2, "b", 3.0, 5.0)]
    assert {one.output for one in BASELINES.get("majority")(numbers, ())} == {2.0}
    tags = [row(1, "Anna runs", ("B-PER", "O"), ("O", "O")), row(2, "she runs fast", ("O",) * 3, ("O",) * 3)]
    assert [one.output for one in BASELINES.get("majority")(tags, ())] == [("O", "O"), ("O", "O", "O")]


def test_a_baseline_keeps_nothing_of_the_model() -> None:
    sure = replace(LABELS[0], scores={"card": 1.0}, likelihood=Likelihood(1, 1, 1), ended="stop")
    (found,) = BASELINES.get("copy")([sure], ())
    assert (found.scores, found.likelihood, found.ended) == ({}, None, "")
    scores = score("copy", [found], metrics_for("classify", [found]))
    assert scores.left_out == dict.fromkeys(
        ("roc_auc", "calibration_error"), "there are no probabilities of the labels"
    )


def test_metrics_follow_the_kind_of_reference() -> None:
    assert metrics_for("classify", [row(1, "", 1.0, 2.0)])[0] == "mse"
    assert "f1_micro" in metrics_for("classify", [row(1, "", ("a", "b"), ("a",))])
    assert metrics_for("chat", ANSWERS, ("rouge_l",))[-1] == "rouge_l"


def test_slices_cover_all_rows_once() -> None:
    parts = slices(LABELS, "length", "accuracy")
    assert sum(one.score.n for one in parts) == len(LABELS)
    assert [int(one.value.split()[0]) for one in parts] == sorted(int(one.value.split()[0]) for one in parts)
    rows = [replace(LABELS[i % 6], columns={"shop": str(i if i > 20 else i % 9)}) for i in range(40)]
    by_column = slices(rows, "shop", "accuracy")
    assert sum(one.score.n for one in by_column) == 40
    assert by_column[-1].value == OTHER
    with pytest.raises(DataError, match="no row has a column `shpo`"):
        slices(rows, "shpo", "accuracy")


def test_confusion_counts_every_row_and_names_the_commonest_mistake() -> None:
    found = confusion(LABELS)
    assert found is not None
    assert found.names == ["billing", "card", "login"]
    assert found.counts == [[1, 0, 0], [0, 2, 1], [0, 1, 1]]
    assert found.frequent == [("card", "login", 1), ("login", "card", 1)]
    assert confusion([row(1, "", ("a",), ("a",))]) is None
    table = {one.name: one for one in per_class(LABELS)}
    assert table["card"].support == 3
    assert table["card"].recall.value == pytest.approx(2 / 3)
    entities = per_entity([row(1, "Anna runs", ("B-PER", "O"), ("B-PER", "O")), row(2, "x", ("O",), ("B-LOC",))])
    assert [(one.name, one.support) for one in entities] == [("LOC", 0), ("PER", 1)]


def test_the_worst_and_the_changed_rows_have_their_place() -> None:
    bad = worst(ANSWERS, "token_f1")
    assert [(one["file"], one["row"]) for one in bad] == [("test.jsonl", 1), ("test.jsonl", 2)]
    better = [replace(ANSWERS[0], output="first sentence"), ANSWERS[1], replace(ANSWERS[2], output="no")]
    moved = changed(ANSWERS, better, "token_f1")
    assert [(one["row"], one["score_before"], one["score"]) for one in moved] == [(1, 0.0, 1.0), (3, 1.0, 0.0)]
    assert moved[0]["before"] == "something else"


def test_a_comparison_is_of_the_same_rows() -> None:
    found = compare_predictions(("a", "b"), ANSWERS, ANSWERS, ("token_f1", "loss"), "token_f1")
    assert set(found.differences) == {"token_f1"}  # without likelihoods there is no loss
    assert found.differences["token_f1"].sentence == "cannot tell with n = 3"
    with pytest.raises(DataError, match="same rows"):
        compare_predictions(("a", "b"), ANSWERS, ANSWERS[1:], ("token_f1",), "token_f1")


def test_predictions_survive_their_file(tmp_path: Path) -> None:
    rows = [
        *LABELS, row(7, "t", ("B-PER", "O"), ("O", "O"), group="doc", columns={"shop": "a"}),
        row(8, "é\n", 1.5, 2.5, likelihood=Likelihood(1.25, 3.0, 4), ended="stop", scores={"a": 0.25}),
    ]  # fmt: skip
    file = write_predictions(tmp_path / "p.jsonl", rows)
    assert read_predictions(Path(file)) == rows
    with open(file, "a") as more:
        more.write(json.dumps({"file": "x"}) + "\n")
    with pytest.raises(DataError, match=r"p\.jsonl:9"):
        read_predictions(Path(file))


def test_what_the_model_is_least_sure_of_is_labelled_next() -> None:
    rows = [
        row(1, "sure", "", "a", scores={"a": 0.98, "b": 0.02}), row(2, "torn", "", "a", scores={"a": 0.51, "b": 0.49}),
        row(3, "half", "", "b", scores={"a": 0.3, "b": 0.7}), row(4, "Torn ", "", "a", scores={"a": 0.5, "b": 0.5}),
    ]  # fmt: skip
    found = label_next(rows)
    assert [item.prediction.at.row for item in found] == [2, 3, 1]  # row 4 is row 2 again
    assert as_rows(found)[0]["guess"] == "a"
    assert uncertainty(row(1, "", "", (), scores={"a": 0.5, "b": 0.5, "c": 0.5})) == pytest.approx(1.0)
    assert uncertainty(row(1, "", "", "x", likelihood=Likelihood(6.0, 3, 9))) == 2.0
    with pytest.raises(DataError, match=r"test\.jsonl:1"):
        uncertainty(LABELS[0])
