"""Rows worth reading."""

from dataclasses import replace

from tutelage.evaluate.examples import changed, worst
from tutelage.metrics import Prediction


def test_the_worst_and_the_changed_rows_have_their_place(answers: list[Prediction]) -> None:
    bad = worst(answers, "token_f1")
    assert [(one["file"], one["row"]) for one in bad] == [("test.jsonl", 1), ("test.jsonl", 2)]
    better = [replace(answers[0], output="first sentence"), answers[1], replace(answers[2], output="no")]
    moved = changed(answers, better, "token_f1")
    assert [(one["row"], one["score_before"], one["score"]) for one in moved] == [(1, 0.0, 1.0), (3, 1.0, 0.0)]
    assert moved[0]["before"] == "something else"
