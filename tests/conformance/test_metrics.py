"""What every registered metric must hold to: perfect is best, order-free, within its range, and a sentence for nothing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tutelage.data.types import At
from tutelage.errors import DataError
from tutelage.metrics import METRICS, Likelihood, Prediction, difference, estimate
from tutelage.metrics.statistics import value_of

COUNT = 60
NAMES = list(METRICS)
SENTENCE = "the invoice was paid on Monday by card and the customer asked for a refund of her second payment"
WORDS = SENTENCE.split()


def label_rows() -> list[Prediction]:
    rng = np.random.default_rng(0)
    names = ["billing", "login", "other"]
    rows = []
    for index in range(COUNT):
        right = names[int(rng.integers(3))]
        p = rng.dirichlet([1.0, 1.0, 1.0]) + np.array([0.6 * (name == right) for name in names])
        scores = dict(zip(names, (p / p.sum()).tolist()))
        rows.append(Prediction(At("x", index + 1), "", right, max(names, key=lambda n: scores[n]), scores))
    return rows


def number_rows() -> list[Prediction]:
    rng = np.random.default_rng(1)
    right = rng.normal(size=COUNT)
    given = right + rng.normal(size=COUNT)
    return [Prediction(At("x", i + 1), "", float(a), float(b)) for i, (a, b) in enumerate(zip(right, given))]


def tag_rows() -> list[Prediction]:
    rng = np.random.default_rng(2)
    rows = []
    for index in range(COUNT):
        right = tuple(str(t) for _ in range(3) for t in [["B-PER", "I-PER"], ["O"], ["B-LOC"]][rng.integers(3)])
        given = tuple(tag if rng.random() < 0.8 else "O" for tag in right)
        rows.append(Prediction(At("x", index + 1), "", right, given))
    return rows


def text_rows() -> list[Prediction]:
    rng = np.random.default_rng(3)
    rows = []
    for index in range(COUNT):
        right = [str(w) for w in rng.choice(WORDS, size=int(rng.integers(5, 15)))]
        given = [word if rng.random() < 0.7 else str(rng.choice(WORDS)) for word in right if rng.random() < 0.9]
        nats = Likelihood(float(rng.gamma(2.0, 3.0)), len(right), len(" ".join(right)))
        ended = "stop" if rng.random() < 0.8 else "length"
        rows.append(Prediction(At("x", index + 1), "", " ".join(right), " ".join(given), {}, nats, ended))  # type: ignore[arg-type]
    return rows


def perfect(row: Prediction) -> Prediction:
    right = row.reference
    scores = {name: float(name == right) for name in row.scores}
    likelihood = replace(row.likelihood, nats=0.0) if row.likelihood else None
    return replace(row, output=right, scores=scores, likelihood=likelihood, ended=row.ended and "stop")  # type: ignore[arg-type]


KINDS: dict[str, Callable[[], list[Prediction]]] = {
    **dict.fromkeys(("mse", "pearson", "spearman"), number_rows),
    **dict.fromkeys(("accuracy", "mcc", "roc_auc", "calibration_error"), label_rows),
}


def rows_for(name: str) -> list[Prediction]:
    """Predictions of the kind that the metric is for; a new metric is tried on texts unless it says otherwise."""
    if name.startswith(("entity_", "tag_")):
        return tag_rows()
    if name.startswith(("precision_", "recall_", "f1_")):
        return label_rows()
    return KINDS.get(name, text_rows)()


@pytest.mark.parametrize("name", NAMES)
def test_perfect_is_best(name: str) -> None:
    rows = rows_for(name)
    statistic = METRICS.get(name)(rows)
    best = value_of(METRICS.get(name)([perfect(row) for row in rows]))
    about = statistic.about
    if about.higher_is_better is None or name.startswith("distinct_") or name == "empty":
        return  # says nothing of right or wrong
    assert (best >= value_of(statistic)) == about.higher_is_better or best == value_of(statistic)
    assert best == pytest.approx(about.high if about.higher_is_better else about.low, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    rows = rows_for(name)
    order = np.random.default_rng(4).permutation(len(rows))
    shuffled = METRICS.get(name)([rows[i] for i in order])
    assert value_of(shuffled) == pytest.approx(value_of(METRICS.get(name)(rows)), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_values_and_intervals_stay_in_range_and_hold_the_value(name: str) -> None:
    statistic = METRICS.get(name)(rows_for(name))
    found = estimate(statistic, resamples=500)
    assert statistic.about.low <= found.low <= found.value <= found.high <= statistic.about.high
    assert found.low < found.high
    assert found.n == COUNT
    assert found.method


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_repeats(name: str) -> None:
    """Resampling by weights gives what scoring the repeated rows gives: no bootstrap goes back to the texts."""
    rows = rows_for(name)
    drawn = np.random.default_rng(5).integers(len(rows), size=len(rows))
    weights = np.bincount(drawn, minlength=len(rows))[None].astype(float)
    by_weight = float(METRICS.get(name)(rows).resampled(weights)[0])
    assert by_weight == pytest.approx(value_of(METRICS.get(name)([rows[i] for i in drawn])), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_leaving_a_row_out_is_scoring_the_others(name: str) -> None:
    rows = rows_for(name)
    left_out = METRICS.get(name)(rows).left_out()
    for index in (0, 17):
        rest = METRICS.get(name)(rows[:index] + rows[index + 1 :])
        assert left_out[index] == pytest.approx(value_of(rest), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_system_does_not_differ_from_itself(name: str) -> None:
    statistic = METRICS.get(name)(rows_for(name))
    found = difference(statistic, statistic)
    assert (found.value, found.verdict) == (0, "cannot tell")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_score_is_a_sentence(name: str) -> None:
    with pytest.raises(DataError, match="there is nothing to score"):
        METRICS.get(name)([])


@pytest.mark.parametrize(
    "name, rows", [("accuracy", number_rows), ("mse", text_rows), ("entity_f1", text_rows), ("loss", tag_rows),
                   ("roc_auc", text_rows), ("calibration_error", text_rows), ("stopped", tag_rows)],
)  # fmt: skip
def test_rows_of_another_task_are_a_sentence_with_their_place(name: str, rows: Callable[[], list[Prediction]]) -> None:
    with pytest.raises(DataError, match="x:1"):
        METRICS.get(name)(rows())
