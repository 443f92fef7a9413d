"""Exact match and token F1 by the rules of the official SQuAD scripts; expected values worked out by hand."""

from collections.abc import Callable

import pytest

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
