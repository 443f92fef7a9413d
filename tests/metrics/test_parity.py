"""Our numbers against those of scikit-learn, seqeval, sacrebleu and rouge-score, on realistic predictions, to 1e-6."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sacrebleu
import sklearn.metrics as sk
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import pearsonr, spearmanr
from seqeval import metrics as se
from seqeval import scheme as schemes

from tutelage.metrics import METRICS, Prediction, entity_f1, f1
from tutelage.metrics.statistics import value_of

Make = Callable[..., list[Prediction]]
CLOSE = {"rel": 0, "abs": 1e-6}
SEEDS = range(4)


def ours(name: str, predictions: list[Prediction]) -> float:
    return value_of(METRICS.get(name)(predictions))


def resamples(statistic: Any, count: int = 3) -> list[tuple[np.ndarray, float]]:
    """Index lists of resamples, with our score of each."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(count):
        drawn = rng.integers(len(statistic), size=len(statistic))
        weights = np.bincount(drawn, minlength=len(statistic))[None].astype(float)
        found.append((drawn, float(statistic.resampled(weights)[0])))
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [2, 7, 77])
def test_labels_as_scikit_learn(labels: Make, classes: int, seed: int) -> None:
    rows = labels(300, classes, seed)
    right, given = [one.reference for one in rows], [one.output for one in rows]
    assert ours("accuracy", rows) == pytest.approx(sk.accuracy_score(right, given), **CLOSE)
    assert ours("mcc", rows) == pytest.approx(sk.matthews_corrcoef(right, given), **CLOSE)
    for kind, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        for average in ("micro", "macro", "weighted"):
            theirs = score(right, given, average=average, zero_division=0)
            assert ours(f"{kind}_{average}", rows) == pytest.approx(theirs, **CLOSE)
    report = sk.classification_report(right, given, output_dict=True, zero_division=0)
    for name, scores in f1.per_class(rows).items():
        for kind, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert value_of(scores[kind]) == pytest.approx(report[name][theirs], **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [2, 5])
def test_the_area_under_the_curve_as_scikit_learn(labels: Make, classes: int, seed: int) -> None:
    rows = labels(300, classes, seed)
    names = sorted(rows[0].scores)
    right = np.array([names.index(str(one.reference)) for one in rows])
    scores = np.array([[one.scores[name] for name in names] for one in rows])

    def theirs(index: np.ndarray) -> float:
        return float(np.mean([sk.roc_auc_score(right[index] == c, scores[index, c]) for c in range(classes)]))

    assert ours("roc_auc", rows) == pytest.approx(theirs(np.arange(300)), **CLOSE)
    for drawn, score in resamples(METRICS.get("roc_auc")(rows)):
        assert score == pytest.approx(theirs(drawn), **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
def test_several_labels_as_scikit_learn(made: Make, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["billing", "card", "login", "other"]
    right, given = rng.random((200, 4)) < 0.4, rng.random((200, 4)) < 0.4
    rows = made(*([tuple(n for n, on in zip(names, row) if on) for row in side] for side in (right, given)))
    assert ours("accuracy", rows) == pytest.approx(sk.accuracy_score(right, given), **CLOSE)
    for average in ("micro", "macro", "weighted"):
        assert ours(f"f1_{average}", rows) == pytest.approx(sk.f1_score(right, given, average=average), **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_as_scikit_learn_and_scipy(made: Make, seed: int) -> None:
    rng = np.random.default_rng(seed)
    right = np.round(rng.normal(1000, 2, 150), 1)
    given = np.round(right + rng.normal(0, 2, 150), 1)
    rows = made(right.tolist(), given.tolist())
    assert ours("mse", rows) == pytest.approx(sk.mean_squared_error(right, given), **CLOSE)
    assert ours("pearson", rows) == pytest.approx(pearsonr(right, given).statistic, **CLOSE)
    assert ours("spearman", rows) == pytest.approx(spearmanr(right, given).statistic, **CLOSE)
    for name, theirs in (("pearson", pearsonr), ("spearman", spearmanr)):
        for drawn, score in resamples(METRICS.get(name)(rows)):
            assert score == pytest.approx(theirs(right[drawn], given[drawn]).statistic, **CLOSE)


def test_calibration_as_a_plain_loop(labels: Make) -> None:
    rows = labels(400, 3, 0)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for one in rows:
        p = one.scores[str(one.output)]
        place = next(m for m in range(15) if m / 15 < p <= (m + 1) / 15) if p > 0 else 0
        bins.setdefault(place, []).append((p, one.output == one.reference))
    error = sum(
        len(b) / 400 * abs(sum(hit for _, hit in b) / len(b) - sum(p for p, _ in b) / len(b)) for b in bins.values()
    )
    assert ours("calibration_error", rows) == pytest.approx(error, **CLOSE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("letters", ["BI", "IB", "BIES"])
@pytest.mark.filterwarnings("ignore")
def test_entities_as_seqeval(tags: Make, letters: str, seed: int) -> None:
    rows = tags(150, seed, letters)
    right, given = [list(one.reference) for one in rows], [list(one.output) for one in rows]  # type: ignore[arg-type]
    assert ours("entity_precision", rows) == pytest.approx(se.precision_score(right, given), **CLOSE)
    assert ours("entity_recall", rows) == pytest.approx(se.recall_score(right, given), **CLOSE)
    assert ours("entity_f1", rows) == pytest.approx(se.f1_score(right, given), **CLOSE)
    assert ours("entity_f1_macro", rows) == pytest.approx(se.f1_score(right, given, average="macro"), **CLOSE)
    assert ours("tag_accuracy", rows) == pytest.approx(se.accuracy_score(right, given), **CLOSE)
    report = se.classification_report(right, given, output_dict=True)
    for name, scores in entity_f1.per_type(rows).items():
        assert value_of(scores["f1"]) == pytest.approx(report[name]["f1-score"], **CLOSE)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "name, letters, theirs",
    [
        ("bio", "BI", schemes.IOB2), ("iob1", "BI", schemes.IOB1), ("iobes", "BIES", schemes.IOBES),
        ("bilou", "BILU", schemes.BILOU),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_strict_entities_as_seqeval(tags: Make, name: Any, letters: str, theirs: Any, seed: int) -> None:
    rows = tags(150, seed, letters)
    right, given = [list(one.reference) for one in rows], [list(one.output) for one in rows]  # type: ignore[arg-type]
    for kind, score in (("precision", se.precision_score), ("recall", se.recall_score), ("f1", se.f1_score)):
        expected = score(right, given, mode="strict", scheme=theirs, zero_division=0)
        assert value_of(entity_f1.score(rows, kind, "micro", name)) == pytest.approx(expected, **CLOSE)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize("name, metric", [("bleu", sacrebleu.BLEU), ("chrf", sacrebleu.CHRF), ("ter", sacrebleu.TER)])
def test_translations_as_sacrebleu(texts: Make, name: str, metric: Any, references: int, seed: int) -> None:
    count = 15 if name == "ter" else 40  # sacrebleu takes a third of a second a row for TER
    rows = texts(count, seed, references)

    def theirs(index: Any) -> float:
        streams = [[rows[i].texts[r] for i in index] for r in range(references)]
        return float(metric().corpus_score([rows[i].text for i in index], streams).score)

    statistic = METRICS.get(name)(rows)
    assert value_of(statistic) == pytest.approx(theirs(range(count)), **CLOSE)
    for drawn, score in resamples(statistic):
        assert score == pytest.approx(theirs(drawn), **CLOSE)
    for index, score in enumerate(statistic.each()):
        assert score == pytest.approx(theirs([index]), **CLOSE)
    assert "version:" in statistic.about.signature


def test_translations_with_a_different_number_of_references_a_row(made: Make) -> None:
    rows = made(
        [("a small house", "a little house"), "the red car", ("one", "two", "three")], ["a house", "red car", "two"]
    )
    streams = [["a small house", "the red car", "one"], ["a little house", None, "two"], [None, None, "three"]]
    theirs = sacrebleu.CHRF().corpus_score(["a house", "red car", "two"], streams).score  # type: ignore[arg-type]
    assert ours("chrf", rows) == pytest.approx(theirs, **CLOSE)


@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_summaries_as_rouge_score(texts: Make, name: str, references: int) -> None:
    rows = texts(60, 1, references)
    scorer = RougeScorer([name])
    theirs = [scorer.score_multi(list(one.texts), one.text)[name].fmeasure for one in rows]
    key = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l", "rougeLsum": "rouge_lsum"}[name]
    assert ours(key, rows) == pytest.approx(np.mean(theirs), **CLOSE)
