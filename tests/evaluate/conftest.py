"""Predictions made by hand, as several files need them."""

from collections.abc import Callable

import pytest

from tutelage.data.types import At
from tutelage.metrics import Prediction
from tutelage.metrics.types import Value


def made_row(number: int, text: str, right: Value, given: Value, **more: object) -> Prediction:
    return Prediction(At("test.jsonl", number), text, right, given, **more)  # type: ignore[arg-type]


LABELS = [
    made_row(1, "my card is gone", "card", "card"),
    made_row(2, "I cannot log in today at all", "login", "card"),
    made_row(3, "the invoice is wrong, and it is the second time", "billing", "billing"),
    made_row(4, "log in fails", "login", "login"),
    made_row(5, "where is my card", "card", "login"),
    made_row(6, "card", "card", "card"),
]
ANSWERS = [
    made_row(1, "First sentence. Second one.", "first sentence", "something else"),
    made_row(2, "Only one sentence", "only one sentence", "only one"),
    made_row(3, "Is it? Yes.", "yes", "yes"),
]


@pytest.fixture
def labels() -> list[Prediction]:
    return LABELS


@pytest.fixture
def answers() -> list[Prediction]:
    return ANSWERS


@pytest.fixture
def row() -> Callable[..., Prediction]:
    return made_row
