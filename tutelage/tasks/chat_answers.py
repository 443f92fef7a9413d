"""A causal model on chat rows: its own answer in place of the last assistant turn, and how likely it finds the right one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.data.types import At, Conversation
from tutelage.encode.rows import Rows
from tutelage.encode.template import Template
from tutelage.encode.types import Encoded
from tutelage.generate.answer import text_of
from tutelage.generate.batch import generate
from tutelage.metrics.types import Likelihood, Prediction
from tutelage.tasks import chat
from tutelage.tasks.likelihood import backbone_of, target_losses
from tutelage.taskspec import ChatSpec

ANSWER_TOKENS = 256
Progress = Callable[[int], None]


def silent(count: int) -> None:
    """Hears nothing."""


def predict(
    model: Any, template: Template, spec: ChatSpec, rows: Sequence[Conversation], *, max_tokens: int = ANSWER_TOKENS,
    seed: int = 0, done: Progress = silent,
) -> list[Prediction]:  # fmt: skip
    """One prediction per row, in their order: greedy answers, and the likelihood of the turns that training counts."""
    rows = [chat.with_system(row, spec.system) for row in rows]
    asked = [_last_answer(row) for row in rows]
    prompts = [template.prompt(row.messages[:last], row.tools) for row, last in zip(rows, asked)]
    answers = generate(model, prompts, stop_ids=template.stop_ids, max_tokens=max_tokens, seed=seed, done=done)
    likely = likelihoods(model, template, spec, rows)
    return [
        Prediction(
            at=row.at, input=_asked(row, last), reference=row.messages[last].content,
            context=_other_turns(row, last),
            output=text_of(template, answer), likelihood=likely[row.at], ended=answer.ended,
        )
        for row, last, answer in zip(rows, asked, answers)
    ]  # fmt: skip


def likelihoods(model: Any, template: Template, spec: ChatSpec, rows: Sequence[Conversation]) -> dict[At, Likelihood]:
    """How likely each row's trained turns are, weighted as in training, so that their loss is the held-out loss.

    Bytes are those of the turns' text, without what the template adds.
    """
    encoded = encoded_rows(template, spec, rows)
    found: dict[At, tuple[float, float]] = {}
    for one, losses in zip(encoded, target_losses(backbone_of(model), encoded)):
        weights: NDArray[np.float64] = one.weights[1:][one.weights[1:] > 0].astype(np.float64)
        nats, tokens = found.get(one.at, (0.0, 0.0))
        found[one.at] = nats + float((losses * weights).sum()), tokens + float(weights.sum())
    sizes = {row.at: _trained_bytes(row, spec) for row in rows}
    return {at: Likelihood(nats, tokens, sizes[at]) for at, (nats, tokens) in found.items()}


def encoded_rows(template: Template, spec: ChatSpec, rows: Sequence[Conversation]) -> list[Encoded]:
    """The rows as training encodes them; several examples of a row where its template rewrites history."""
    return [row for part in chat.encode(template, spec, rows) for row in Rows.all(part)]


def longer_than(most: int | None, template: Template, spec: ChatSpec, rows: Sequence[Conversation]) -> set[At]:
    """The places of rows of more than `most` tokens; none where that is None."""
    return set() if most is None else {one.at for one in encoded_rows(template, spec, rows) if len(one.ids) > most}


def _trained_bytes(row: Conversation, spec: ChatSpec) -> int:
    turns = [message for message in row.messages if message.role == "assistant" and message.weight != 0]
    return sum(len(message.content.encode()) for message in (turns[-1:] if spec.train_on == "last" else turns))


def _last_answer(row: Conversation) -> int:
    return max(index for index, message in enumerate(row.messages) if message.role == "assistant")


def _question(row: Conversation, last: int) -> int | None:
    """The place of the question that the answer at `last` belongs to."""
    return next((i for i in reversed(range(last)) if row.messages[i].role == "user"), None)


def _asked(row: Conversation, last: int) -> str:
    place = _question(row, last)
    return "" if place is None else row.messages[place].content


def _other_turns(row: Conversation, last: int) -> str:
    """The turns before the answer without the question; empty where there are none."""
    place = _question(row, last)
    others = (message for i, message in enumerate(row.messages[:last]) if i != place)
    return "\n\n".join(f"{message.role}: {message.content}" for message in others if message.content)
