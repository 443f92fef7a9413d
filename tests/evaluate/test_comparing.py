"""Two systems on the same rows."""

import pytest

from tutelage.errors import DataError
from tutelage.evaluate.comparing import compare_predictions
from tutelage.metrics import Prediction


def test_a_comparison_is_of_the_same_rows(answers: list[Prediction]) -> None:
    found = compare_predictions(("a", "b"), answers, answers, ("token_f1", "loss"), "token_f1")
    assert set(found.differences) == {"token_f1"}  # without likelihoods there is no loss
    assert found.differences["token_f1"].sentence == "cannot tell with n = 3"
    with pytest.raises(DataError, match="same rows"):
        compare_predictions(("a", "b"), answers, answers[1:], ("token_f1",), "token_f1")
