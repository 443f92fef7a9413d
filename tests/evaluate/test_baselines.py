"""Trivial systems."""

from collections.abc import Callable
from dataclasses import replace

from tutelage.evaluate.baselines import BASELINES
from tutelage.evaluate.scoring import metrics_for, score
from tutelage.metrics import Likelihood, Prediction

Row = Callable[..., Prediction]


def test_baselines_do_what_they_say(labels: list[Prediction], answers: list[Prediction], row: Row) -> None:
    given = BASELINES.get("majority")(labels, ["login", "login", "card"])
    assert {one.output for one in given} == {"login"}
    assert {one.output for one in BASELINES.get("majority")(labels, ())} == {"card"}
    assert [one.output for one in BASELINES.get("lead")(answers, ())] == [
        "First sentence.",
        "Only one sentence",
        "Is it?",
    ]
    assert [one.output for one in BASELINES.get("copy")(answers, ())] == [one.input for one in answers]
    numbers = [row(1, "a", 1.0, 5.0), row(2, "b", 3.0, 5.0)]
    assert {one.output for one in BASELINES.get("majority")(numbers, ())} == {2.0}
    tags = [row(1, "Anna runs", ("B-PER", "O"), ("O", "O")), row(2, "she runs fast", ("O",) * 3, ("O",) * 3)]
    assert [one.output for one in BASELINES.get("majority_tag")(tags, ())] == [("O", "O"), ("O", "O", "O")]


def test_a_baseline_keeps_nothing_of_the_model(labels: list[Prediction]) -> None:
    sure = replace(labels[0], scores={"card": 1.0}, likelihood=Likelihood(1, 1, 1), ended="stop")
    (found,) = BASELINES.get("copy")([sure], ())
    assert (found.scores, found.likelihood, found.ended) == ({}, None, "")
    scores = score("copy", [found], metrics_for("classify", [found]))
    assert scores.left_out == dict.fromkeys(
        ("roc_auc", "calibration_error"), "there are no probabilities of the labels"
    )
