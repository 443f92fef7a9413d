"""What fine-tuning cost: general text, knowledge, common sense, obedience to formats, and distance from the base model.

The divergence is KL(base || tuned) per token on the base model's own answers: its samples at temperature 1 make the
mean of log p_base - log p_tuned an unbiased estimate, and only one number per token has to be kept of the base model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutelage.data.types import Message
from tutelage.encode.template import ROLES, Template
from tutelage.encode.types import Encoded
from tutelage.engine.backbone import Backbone
from tutelage.evaluate.instructions import obeyed
from tutelage.evaluate.probing import Choice, Probe, Request, Text
from tutelage.generate.answer import text_of
from tutelage.generate.batch import generate
from tutelage.generate.sampling import Sampling
from tutelage.metrics import METRICS, Difference, Estimate, Likelihood, Prediction, difference, estimate
from tutelage.metrics.statistics import About, Summed, quotient
from tutelage.tasks.likelihood import backbone_of, target_losses

FORMAT_TOKENS, SAMPLE_TOKENS = 64, 64
DIVERGENCE = About(low=-np.inf, high=np.inf, higher_is_better=False, signature="KL(base||model)|nats per token|sampled")
METRIC = {Text: "loss", Choice: "accuracy", Request: "accuracy"}


@dataclass(frozen=True)
class Sampled:
    """The base model's own answers: prompt and answer as ids, and -log p of the answer's tokens under the base model."""

    rows: tuple[Encoded, ...] = ()
    nats: tuple[float, ...] = ()


@dataclass(frozen=True)
class Probed:
    """One model's predictions on every probe, and its loss on the base model's own answers."""

    predictions: dict[str, list[Prediction]]
    kinds: dict[str, type]
    own: Sampled = field(default_factory=Sampled)


@dataclass(frozen=True)
class Forgetting:
    """Each probe before and after, and how far the model has moved from the base model's own answers."""

    probes: dict[str, Difference]
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    divergence: Estimate | None

    def forgotten(self) -> list[str]:
        """The probes whose interval says that the model has become worse."""
        return [name for name, one in self.probes.items() if one.verdict == "worse"]


def probe(
    model: Any, template: Template, probes: Mapping[str, Sequence[Probe]], *, base: Probed | None = None, seed: int = 0
) -> Probed:
    """The model on every probe. Without `base` it is the base model, whose own answers are sampled."""
    found: dict[str, list[Prediction]] = {}
    kinds: dict[str, type] = {}
    for name, rows in probes.items():
        checked = [row for row in rows if isinstance(row, Request) and row.check]
        if checked:
            found[name], kinds[name] = _requests(model, template, checked), Request
    questions = [row for rows in probes.values() for row in rows if isinstance(row, Request) and not row.check]
    answers = base.own.rows if base else _sampled(model, template, questions, seed)
    backbone = backbone_of(model)
    own = Sampled(answers, tuple(float(losses.sum()) for losses in target_losses(backbone, answers)))
    for name, items in probes.items():
        texts = [row for row in items if isinstance(row, Text)]
        choices = [row for row in items if isinstance(row, Choice)]
        if texts:
            found[name], kinds[name] = _texts(backbone, template, texts), Text
        if choices:
            found[name], kinds[name] = _choices(backbone, template, choices), Choice
    return Probed(found, kinds, own)


def forgetting(before: Probed, after: Probed, *, seed: int = 0) -> Forgetting:
    """The tuned model's probes against the base model's, with paired intervals."""
    one = {name: METRICS.get(METRIC[before.kinds[name]])(rows) for name, rows in before.predictions.items()}
    two = {name: METRICS.get(METRIC[after.kinds[name]])(rows) for name, rows in after.predictions.items()}
    moved = None
    if before.own.rows:
        tokens = [np.count_nonzero(row.weights[1:]) for row in before.own.rows]
        gaps = np.array([[b - a, n] for a, b, n in zip(before.own.nats, after.own.nats, tokens)], dtype=np.float64)
        moved = estimate(Summed(gaps, quotient, DIVERGENCE), seed=seed)
    return Forgetting(
        probes={name: difference(one[name], two[name]) for name in one},
        before={name: estimate(statistic, seed=seed) for name, statistic in one.items()},
        after={name: estimate(statistic, seed=seed) for name, statistic in two.items()}, divergence=moved,
    )  # fmt: skip


def _texts(backbone: Backbone, template: Template, texts: Sequence[Text]) -> list[Prediction]:
    encoded = [encode(template, row.context, row.text, row) for row in texts]
    losses = target_losses(backbone, encoded)
    return [
        Prediction(row.at, row.context, row.text, "",
                   likelihood=Likelihood(float(part.sum()), len(part), len(row.text.encode())))
        for row, part in zip(texts, losses)
    ]  # fmt: skip


def _choices(backbone: Backbone, template: Template, rows: Sequence[Choice]) -> list[Prediction]:
    """The choice with the least loss per byte, as lm-evaluation-harness's acc_norm."""
    encoded = [encode(template, row.query, " " + choice.strip(), row) for row in rows for choice in row.choices]
    losses = iter(target_losses(backbone, encoded))
    found = []
    for row in rows:
        per_byte = [float(next(losses).sum()) / len((" " + choice.strip()).encode()) for choice in row.choices]
        chosen = row.choices[int(np.argmin(per_byte))]
        found.append(Prediction(row.at, row.query, row.choices[row.gold], chosen))
    return found


def _requests(model: Any, template: Template, rows: Sequence[Request]) -> list[Prediction]:
    """Greedy answers; the output is "obeyed" or what was answered instead."""
    prompts = [template.prompt([Message("user", row.prompt)]) for row in rows]
    answers = generate(model, prompts, stop_ids=template.stop_ids, max_tokens=FORMAT_TOKENS)
    texts = [text_of(template, answer) for answer in answers]
    return [
        Prediction(row.at, row.prompt, "obeyed", "obeyed" if obeyed(text, dict(row.check)) else f"not: {text}")
        for row, text in zip(rows, texts)
    ]


def _sampled(model: Any, template: Template, rows: Sequence[Request], seed: int) -> tuple[Encoded, ...]:
    """Each question with the model's own sampled answer; the stop id is part of it where the model wrote one."""
    prompts = [template.prompt([Message("user", row.prompt)]) for row in rows]
    warm = Sampling(temperature=1.0)
    # No stop ids: a stop is a token like the others here, and what the model says behind it is cut off below.
    answers = generate(model, prompts, stop_ids=frozenset(), max_tokens=SAMPLE_TOKENS, sampling=warm, seed=seed)
    return tuple(
        _encoded([*map(int, prompt), *taken], len(prompt), row)
        for row, prompt, answer in zip(rows, prompts, answers)
        if (taken := [*_until_stop(answer.ids, template.stop_ids)])
    )


def _until_stop(ids: Sequence[int], stop_ids: frozenset[int]) -> Iterator[int]:
    for token in ids:
        yield token
        if token in stop_ids:
            return


def encode(template: Template, context: str, text: str, row: Probe) -> Encoded:
    """`context` and `text` as tokens, of which those with characters of `text` are scored."""
    ids, offsets = template.tokenise([context + text], [None])[0]
    scored = offsets[:, 1] > len(context)
    first = int(np.argmax(scored)) if scored.any() else len(ids)
    return _encoded(ids, first, row)


def _encoded(ids: Sequence[int], first: int, row: Probe) -> Encoded:
    weights = np.zeros(len(ids), dtype=np.float32)
    weights[first:] = 1.0
    roles = np.full(len(ids), ROLES.index("assistant"), dtype=np.uint8)
    return Encoded(np.asarray(ids, dtype=np.int32), weights, roles, row.at)
