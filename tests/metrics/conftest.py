"""Predictions as real models make them: mostly right, sometimes empty, sometimes another class or a few words off."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from tutelage.data.types import At
from tutelage.metrics.types import Likelihood, Prediction, Value

TEXT = (
    "the a an invoice card payment was is refused refunded on Monday by bank customer account please open settings "
    "and choose it's 1,234.50 euros. don't worry! München, Zürich; naïve (soon) e-mail \"quoted\" 2026-11-24"
)
WORDS = TEXT.split()
Make = Callable[..., list[Prediction]]


def predictions_of(
    references: Sequence[Value], outputs: Sequence[Value], scores: Sequence[Mapping[str, float]] = ()
) -> list[Prediction]:
    given = scores or [{}] * len(references)
    return [
        Prediction(At("rows.jsonl", index + 1), f"input {index}", right, output, score)
        for index, (right, output, score) in enumerate(zip(references, outputs, given))
    ]


def label_predictions(count: int, classes: int, seed: int, right: float = 0.7) -> list[Prediction]:
    """Single labels with probabilities; classes of unequal size, a rare one perhaps never given."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1)
    truth = rng.choice(classes, size=count, p=share / share.sum())
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), truth] += np.where(rng.random(count) < right, 2.5, 0.0)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p = np.round(p, 2)  # ties, as low-precision scores have them
    names = [f"class {index}" for index in range(classes)]
    return predictions_of(
        [names[i] for i in truth], [names[i] for i in p.argmax(axis=1)],
        [dict(zip(names, row.tolist())) for row in p],
    )  # fmt: skip


def text_predictions(count: int, seed: int, references: int = 1) -> list[Prediction]:
    """Texts of 0 to 40 words; outputs lose, repeat, swap and change words; some are empty."""
    rng = np.random.default_rng(seed)
    rights: list[Value] = []
    outputs: list[Value] = []
    for _ in range(count):
        texts = [[str(w) for w in rng.choice(WORDS, size=rng.integers(1, 40))] for _ in range(references)]
        output = [w for w in texts[0] if rng.random() > 0.15]
        if output and rng.random() < 0.5:
            i, j = rng.integers(len(output), size=2)
            output[i], output[j] = output[j], str(rng.choice(WORDS))
        lines = [" ".join(w + ("\n" if rng.random() < 0.1 else "") for w in text) for text in texts]
        rights.append(tuple(lines) if references > 1 else lines[0])
        outputs.append("" if rng.random() < 0.05 else " ".join(output))
    return predictions_of(rights, outputs)


def tag_predictions(count: int, seed: int, letters: str = "BIO") -> list[Prediction]:
    """Tag rows, also ones that no scheme allows."""
    rng = np.random.default_rng(seed)
    kinds = ("PER", "LOC", "ORG-UNIT")
    rights, outputs = [], []
    for _ in range(count):
        size = int(rng.integers(1, 15))
        tags = [_tag(rng, letters, kinds) for _ in range(size)]
        rights.append(tuple(tags))
        outputs.append(tuple(tag if rng.random() < 0.7 else _tag(rng, letters, kinds) for tag in tags))
    return predictions_of(rights, outputs)


def _tag(rng: np.random.Generator, letters: str, kinds: Sequence[str]) -> str:
    letter = str(rng.choice([*letters, "O"]))
    return "O" if letter == "O" else f"{letter}-{rng.choice(kinds)}"


def with_likelihood(predictions: Sequence[Prediction], seed: int) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    rows = []
    for one in predictions:
        tokens = int(rng.integers(1, 50))
        likely = Likelihood(float(rng.gamma(2.0, 1.0)) * tokens, tokens, tokens * 4)
        rows.append(Prediction(one.at, one.input, one.reference, one.output, one.scores, likely, "stop"))
    return rows


@pytest.fixture(scope="session")
def labels() -> Make:
    return label_predictions


@pytest.fixture(scope="session")
def texts() -> Make:
    return text_predictions


@pytest.fixture(scope="session")
def tags() -> Make:
    return tag_predictions


@pytest.fixture(scope="session")
def likely() -> Make:
    return with_likelihood


@pytest.fixture(scope="session")
def made() -> Make:
    return predictions_of
