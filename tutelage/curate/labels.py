"""Wrong labels: confident learning (Northcutt et al. 2021) on out-of-fold probabilities of a linear model.

Each row is judged by a model that has not seen it. cleanlab estimates how many labels of each class are wrong and which;
the list is a ranking to look at, not a verdict.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.curate.embed import Vectors, embed
from tutelage.data.types import At
from tutelage.errors import DataError, need

FOLDS = 5
SHARPNESS = 10.0  # inverse strength of the linear model's L2 penalty, for unit vectors
STEPS = 100  # of its optimiser
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled text and its place."""

    at: At
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Issue:
    """A label that is likely wrong: what the model says instead, and how probable it finds the given label."""

    at: At
    text: str
    label: str
    suggested: str
    confidence: float


def out_of_fold(
    vectors: Vectors,
    labels: NDArray[np.int64],
    *,
    seed: int = 0,
    trusted: NDArray[np.bool_] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """(rows, classes): probabilities of each row from a model trained on the `trusted` rows of the other folds.

    Rows of one of the `groups` are in one fold.
    """
    linear: Any = need("sklearn.linear_model", extra="labels")
    selection: Any = need("sklearn.model_selection", extra="labels")
    result = np.zeros((len(labels), int(labels.max()) + 1))
    kind = selection.StratifiedKFold if groups is None else selection.StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a rare class is not in every fold
        folds = list(kind(FOLDS, shuffle=True, random_state=seed).split(vectors, labels, groups))
    for train, held in folds:
        used = train if trusted is None else train[trusted[train]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the last digits have not settled changes no ranking
            model = linear.LogisticRegression(C=SHARPNESS, max_iter=STEPS).fit(vectors[used], labels[used])
        result[np.ix_(held, model.classes_)] = model.predict_proba(vectors[held])
    return result


def rank(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows whose labels are likely wrong, the least probable first; how many there are follows from the joint
    distribution of given and true labels that confident learning estimates."""
    issues: Any = need("cleanlab.filter", extra="labels")
    found = issues.find_label_issues(
        labels, probabilities, return_indices_ranked_by="self_confidence", filter_by="low_self_confidence", n_jobs=1
    )
    return np.asarray(found, np.int64)


def judge(
    vectors: Vectors, labels: NDArray[np.int64], *, seed: int = 0, groups: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(likely wrong rows, the probabilities they are ranked by), in two rounds.

    The second round's models do not learn from the rows that the first one doubts, so they are less misled by them.
    """
    doubted = rank(labels, out_of_fold(vectors, labels, seed=seed, groups=groups))
    trusted = np.ones(len(labels), bool)
    trusted[doubted] = False
    lost = ~np.isin(labels, labels[trusted])  # a class that is doubted as a whole is still learnt
    probabilities = out_of_fold(vectors, labels, seed=seed, trusted=trusted | lost, groups=groups)
    return rank(labels, probabilities), probabilities


def find_issues(examples: Sequence[Example], encoder: Path, say: Say, *, seed: int = 0) -> list[Issue]:
    """The likely wrong labels of `examples`, the least probable first.

    Labels with fewer rows than folds cannot be judged; their rows are left out.
    """
    counts = Counter(example.label for example in examples)
    names = sorted(label for label, count in counts.items() if count >= FOLDS)
    judged = [example for example in examples if counts[example.label] >= FOLDS]
    if len(names) < 2:
        raise DataError(
            "labels cannot be judged", where=str(examples[0].at) if examples else "", fix="leave --labels out",
            why=f"{len(names)} labels have at least {FOLDS} rows, and two are needed",
        )  # fmt: skip
    place = {name: index for index, name in enumerate(names)}
    labels = np.array([place[example.label] for example in judged])
    ranked, probabilities = judge(embed([example.text for example in judged], encoder, say), labels, seed=seed)
    suggested = probabilities.argmax(axis=1)
    return [
        Issue(judged[i].at, judged[i].text, judged[i].label, names[suggested[i]], float(probabilities[i, labels[i]]))
        for i in ranked.tolist()
    ]
