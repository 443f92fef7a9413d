"""Exact match and token F1 by the rules of the official SQuAD scripts; expected values worked out by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from torchmetrics.functional.text import squad

from tutelage.metrics import METRICS, Prediction
from tutelage.metrics.answers import normalised
from tutelage.metrics.statistics import value_of

Make = Callable[..., list[Prediction]]


def test_normalisation_drops_case_punctuation_articles_and_spaces() -> None:
    assert normalised("  The  U.S.-led   Coalition, an Army! ") == "usled coalition army"
    assert normalised("Theatre of a Nation") == "theatre of nation"  # an article inside a word stays
    assert normalised("“quoted”") == "“quoted”"  # only ASCII punctuation goes, as in the script
    assert normalised("the") == ""


@pytest.mark.parametrize(
    "reference, output, exact, f1",
    [
        ("the Norman conquest", "Norman Conquest.", 1, 1),
        ("Denver Broncos", "Broncos", 0, 2 * 1 * 0.5 / 1.5),
        ("1 2 2 3", "2 2 2", 0, 2 * 2 / 7),  # a repeat counts as often as both have it
        ("Paris", "London", 0, 0),
        ("Paris", "", 0, 0),
        (("in 1066", "1066"), "1066", 1, 1),  # the best of several
        (("eleventh century", "in the 11th century"), "the 11th century", 0, 2 * 2 / 5),
        ((), "", 1, 1),  # no answer, and none given
        ((), "Paris", 0, 0),
        ((), "the", 1, 1),  # nothing is left of it
        (("", "Paris"), "", 0, 0),  # an empty reference beside a real one is none, as in SQuAD 2.0
    ],
)
def test_answers_score_as_in_the_script(
    made: Make, reference: str | tuple[str, ...], output: str, exact: float, f1: float
) -> None:
    rows = made([reference], [output])
    assert value_of(METRICS.get("exact_match")(rows)) == exact
    assert value_of(METRICS.get("token_f1")(rows)) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_answers_score_as_in_the_scripts_port(texts: Make, seed: int) -> None:
    rows = texts(200, seed)
    rows = [
        # a reference of which nothing is left is none in the 2.0 script, which ours follows, and one in the 1.1 script
        replace(
            one, reference=(*filter(normalised, one.texts), "The Norman conquest of 1066."), output=f"the {one.text}!"
        )
        for one in rows
    ]
    given = [{"id": str(i), "prediction_text": one.text} for i, one in enumerate(rows)]
    right = [
        {"id": str(i), "answers": {"text": list(one.texts), "answer_start": [0] * 9}} for i, one in enumerate(rows)
    ]
    theirs = squad(given, right)
    assert value_of(METRICS.get("exact_match")(rows)) == pytest.approx(float(theirs["exact_match"]) / 100, abs=1e-6)
    assert value_of(METRICS.get("token_f1")(rows)) == pytest.approx(float(theirs["f1"]) / 100, abs=1e-6)
    assert 0.05 < value_of(METRICS.get("token_f1")(rows)) < 0.99
