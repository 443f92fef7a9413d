"""From predictions to scores: which metrics fit a task, and their values with intervals."""

from collections.abc import Callable, Sequence

from tutelage.errors import DataError
from tutelage.evaluate.types import Scores
from tutelage.metrics import METRICS, Prediction, estimate
from tutelage.metrics.statistics import Statistic
from tutelage.metrics.tag_accuracy import marks_spans

ANSWERS = ("exact_match", "token_f1", "distinct_1", "distinct_2", "output_words", "length_ratio", "stopped", "empty")
LIKELIHOOD = ("loss", "perplexity", "bits_per_byte")
LABELS = ("accuracy", "f1_macro", "f1_weighted", "mcc", "roc_auc", "calibration_error")
SETS: dict[str, tuple[str, ...]] = {
    "chat": (*LIKELIHOOD, *ANSWERS),
    "classify": LABELS,
    "tag": ("entity_f1", "entity_precision", "entity_recall", "entity_f1_macro", "entity_f1_strict", "tag_accuracy"),
    "extract": ("exact_match", "token_f1", "empty"),
    "seq2seq": ("chrf", "bleu", "rouge_1", "rouge_2", "rouge_l", "length_ratio", "stopped", *LIKELIHOOD),
    "text": LIKELIHOOD,
}
# The metric that stands for a task where one is asked for: in slices, and to find the worst rows.
MAIN = {
    "chat": "token_f1", "classify": "accuracy", "tag": "entity_f1", "extract": "token_f1", "seq2seq": "chrf",
    "text": "loss",
}  # fmt: skip
SEVERAL_LABELS = ("accuracy", "f1_micro", "f1_macro", "f1_weighted")
RANKING = ("accuracy",)  # of preferences: each is ranked right or wrong, and no label is there to be guessed
NUMBERS = ("mse", "pearson", "spearman")
PLAIN_TAGS = ("tag_accuracy",)  # parts of speech and the like mark no entities

Needs = Callable[[Prediction], bool]
_LIKELY: tuple[Needs, str] = (lambda one: one.likelihood is not None, "there is no likelihood of the references")
_SCORES: tuple[Needs, str] = (lambda one: bool(one.scores), "there are no probabilities of the labels")
_ENDED: tuple[Needs, str] = (lambda one: bool(one.ended), "nothing was generated")
NEEDS: dict[str, tuple[Needs, str]] = {
    **dict.fromkeys(LIKELIHOOD, _LIKELY), "roc_auc": _SCORES, "calibration_error": _SCORES, "stopped": _ENDED,
}  # fmt: skip


def metrics_for(task: str, predictions: Sequence[Prediction], extra: Sequence[str] = ()) -> tuple[str, ...]:
    """The task's metrics for this kind of reference, and the `extra` ones."""
    for name in extra:
        METRICS.get(name)  # a misspelt one is an error before anything is computed
    names = SETS[task]
    if is_ranking(predictions):
        names = RANKING
    elif has_plain_tags(task, predictions):
        names = PLAIN_TAGS
    elif task == "classify" and predictions:
        reference = predictions[0].reference
        names = NUMBERS if isinstance(reference, float) else SEVERAL_LABELS if isinstance(reference, tuple) else names
    return tuple(dict.fromkeys((*names, *extra)))


def is_ranking(predictions: Sequence[Prediction]) -> bool:
    """Whether they say which of two texts is the better one."""
    return (
        bool(predictions) and predictions[0].reference == "better" and set(predictions[0].scores) == {"better", "worse"}
    )


def has_plain_tags(task: str, predictions: Sequence[Prediction]) -> bool:
    """Whether their tags mark no entities, but say something of each word."""
    return task == "tag" and bool(predictions) and not marks_spans(predictions)


def main_metric(task: str, predictions: Sequence[Prediction]) -> str:
    """The metric that stands for the task."""
    first = metrics_for(task, predictions)[0]
    return first if first in (NUMBERS[0], PLAIN_TAGS[0]) else MAIN[task]


def statistics_of(
    predictions: Sequence[Prediction], names: Sequence[str]
) -> tuple[dict[str, Statistic], dict[str, str]]:
    """The statistics of the metrics that apply to all predictions, and why each of the others does not."""
    if not predictions:
        raise DataError("there is nothing to score", why="no row is left", fix="give it a row or more")
    found: dict[str, Statistic] = {}
    left_out: dict[str, str] = {}
    for name in names:
        fits, why = NEEDS.get(name, (None, ""))
        if fits is not None and not all(map(fits, predictions)):
            left_out[name] = why
        else:
            found[name] = METRICS.get(name)(predictions)
    return found, left_out


def groups_of(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """The document of each prediction, empty where none has one."""
    groups = tuple(one.group for one in predictions)
    return groups if any(groups) else ()


def score(
    system: str, predictions: Sequence[Prediction], names: Sequence[str], *, seed: int = 0, file: str = ""
) -> Scores:
    """The scores of one system's predictions."""
    statistics, left_out = statistics_of(predictions, names)
    groups = groups_of(predictions)
    metrics = {name: estimate(statistic, groups, seed=seed) for name, statistic in statistics.items()}
    return Scores(system, metrics, file, left_out)
