"""Which metrics a task has."""

from collections.abc import Callable

from tutelage.evaluate.scoring import metrics_for
from tutelage.metrics import Prediction

Row = Callable[..., Prediction]


def test_metrics_follow_the_kind_of_reference(answers: list[Prediction], row: Row) -> None:
    assert metrics_for("classify", [row(1, "", 1.0, 2.0)])[0] == "mse"
    assert "f1_micro" in metrics_for("classify", [row(1, "", ("a", "b"), ("a",))])
    assert metrics_for("chat", answers, ("rouge_l",))[-1] == "rouge_l"
