"""One answer as text: the way from a prompt through the template and the decoder and back."""

from collections.abc import Generator, Sequence
from typing import Any

from tutelage.data.types import Message
from tutelage.encode.template import Template
from tutelage.generate.batch import Generated
from tutelage.generate.decode import Reason, stream
from tutelage.generate.sampling import Sampling

ANSWER_TOKENS = 160  # enough for a paragraph; the report says where an answer was cut


def answer(
    model: Any, template: Template, prompt: str, *, system: str | None = None, max_tokens: int = ANSWER_TOKENS
) -> str:
    """The model's greedy answer to one user message; "…" at its end means that it was cut at `max_tokens`."""
    messages = [Message("user", prompt)]
    if system is not None:
        messages.insert(0, Message("system", system))
    text, reason = answer_messages(model, template, messages, max_tokens=max_tokens)
    return text + " …" if reason == "length" else text


def answer_messages(
    model: Any, template: Template, messages: Sequence[Message], *, max_tokens: int
) -> tuple[str, Reason]:
    """The model's greedy answer to a conversation, and why it ended."""
    answered: list[int] = []
    reason = yield_into(
        stream(
            model, template.prompt(messages), sampling=Sampling(), stop_ids=template.stop_ids, max_tokens=max_tokens
        ),
        answered,
    )
    return str(template.tokenizer.decode(answered, skip_special_tokens=True)).strip(), reason


def yield_into(ids: Generator[int, None, Reason], into: list[int]) -> Reason:
    """Collect a stream of ids; what the stream returns is returned."""
    while True:
        try:
            into.append(next(ids))
        except StopIteration as end:
            reason: Reason = end.value
            return reason


def text_of(template: Template, answer: Generated) -> str:
    """What was generated, as text."""
    return str(template.tokenizer.decode(answer.ids, skip_special_tokens=True)).strip()
