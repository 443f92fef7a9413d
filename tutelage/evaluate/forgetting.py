"""What fine-tuning cost: general text, knowledge, common sense, obedience to formats, and distance from the base model.

The divergence is KL(base || tuned) per token on the base model's own answers: its samples at temperature 1 make the
mean of log p_base - log p_tuned an unbiased estimate, and only one number per token has to be kept of the base model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tutelage.encode.types import Encoded
from tutelage.evaluate.instructions import obeyed
from tutelage.evaluate.probing import Choice, Probe, Request, Text
from tutelage.evaluate.writers import Writer
from tutelage.metrics import METRICS, Difference, Estimate, Likelihood, Prediction, difference, estimate
from tutelage.metrics.statistics import About, Summed, quotient

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
    """One model's predictions on every probe, and its loss on the base model's own answers. `tokens`: of its `Writer`."""

    predictions: dict[str, list[Prediction]]
    kinds: dict[str, type]
    tokens: str
    own: Sampled = field(default_factory=Sampled)


@dataclass(frozen=True)
class Forgetting:
    """Each probe before and after, and how far the model has moved from the base model's own answers."""

    probes: dict[str, Difference]
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    divergence: Estimate | None
    texts: str  # by which metric texts are compared

    def forgotten(self) -> list[str]:
        """The probes whose interval says that the model has become worse."""
        return [name for name, one in self.probes.items() if one.verdict == "worse"]


def probe(
    writer: Writer, probes: Mapping[str, Sequence[Probe]], *, base: Probed | None = None, seed: int = 0
) -> Probed:
    """A model on every probe. Without `base` it is the base model, whose own answers are sampled."""
    found: dict[str, list[Prediction]] = {}
    kinds: dict[str, type] = {}
    for name, rows in probes.items():
        checked = [row for row in rows if isinstance(row, Request) and row.check]
        if checked:
            found[name], kinds[name] = _requests(writer, checked), Request
    if base is None:
        questions = [row for rows in probes.values() for row in rows if isinstance(row, Request) and not row.check]
        answers = writer.sample(questions, SAMPLE_TOKENS, seed)
    else:  # what one tokenizer made of an answer says nothing to another
        answers = base.own.rows if base.tokens == writer.tokens else ()
    own = Sampled(answers, tuple(float(losses.sum()) for losses in writer.losses(answers)))
    for name, items in probes.items():
        texts = [row for row in items if isinstance(row, Text)]
        choices = [row for row in items if isinstance(row, Choice)]
        if texts:
            found[name], kinds[name] = _texts(writer, texts), Text
        if choices:
            found[name], kinds[name] = _choices(writer, choices), Choice
    return Probed(found, kinds, writer.tokens, own)


def forgetting(before: Probed, after: Probed, *, seed: int = 0) -> Forgetting:
    """The tuned model's probes against the base model's, with paired intervals.

    Models with different tokenizers have different tokens to lose: their texts are compared by bits per byte, and those that
    one of them was asked otherwise (see `Writer`) not at all.
    """
    metric = METRIC if before.tokens == after.tokens else {**METRIC, Text: "bits_per_byte"}
    alike = [name for name, rows in before.predictions.items() if _asked(rows) == _asked(after.predictions[name])]
    one, two = (
        {name: METRICS.get(metric[before.kinds[name]])(side.predictions[name]) for name in alike}
        for side in (before, after)
    )
    moved = None
    if before.own.rows and before.tokens == after.tokens:
        tokens = [np.count_nonzero(row.weights[1:]) for row in before.own.rows]
        gaps = np.array([[b - a, n] for a, b, n in zip(before.own.nats, after.own.nats, tokens)], dtype=np.float64)
        moved = estimate(Summed(gaps, quotient, DIVERGENCE), seed=seed)
    return Forgetting(
        probes={name: difference(one[name], two[name]) for name in one},
        before={name: estimate(statistic, seed=seed) for name, statistic in one.items()},
        after={name: estimate(statistic, seed=seed) for name, statistic in two.items()}, divergence=moved,
        texts=metric[Text],
    )  # fmt: skip


def _asked(rows: Sequence[Prediction]) -> list[tuple[str, object]]:
    return [(row.input, row.reference) for row in rows]


def _texts(writer: Writer, texts: Sequence[Text]) -> list[Prediction]:
    rows = [row if row.context or not writer.needs_context else halved(row) for row in texts]
    losses = writer.losses([writer.row(row.context, row.text, row.at) for row in rows])
    return [
        Prediction(row.at, row.context, row.text, "",
                   likelihood=Likelihood(float(part.sum()), len(part), len(row.text.encode())))
        for row, part in zip(rows, losses)
    ]  # fmt: skip


def halved(text: Text) -> Text:
    """The second half of its words behind the first."""
    words = text.text.split()
    middle = len(words) // 2
    return replace(text, context=" ".join(words[:middle]), text=" " + " ".join(words[middle:]))


def _choices(writer: Writer, rows: Sequence[Choice]) -> list[Prediction]:
    """The choice with the least loss per byte, as lm-evaluation-harness's acc_norm."""
    encoded = [writer.row(row.query, " " + choice.strip(), row.at) for row in rows for choice in row.choices]
    losses = iter(writer.losses(encoded))
    found = []
    for row in rows:
        per_byte = [float(next(losses).sum()) / len((" " + choice.strip()).encode()) for choice in row.choices]
        chosen = row.choices[int(np.argmin(per_byte))]
        found.append(Prediction(row.at, row.query, row.choices[row.gold], chosen))
    return found


def _requests(writer: Writer, rows: Sequence[Request]) -> list[Prediction]:
    """Greedy answers; the output is "obeyed" or what was answered instead."""
    texts = writer.answer([row.prompt for row in rows], FORMAT_TOKENS)
    return [
        Prediction(row.at, row.prompt, "obeyed", "obeyed" if obeyed(text, dict(row.check)) else f"not: {text}")
        for row, text in zip(rows, texts)
    ]
