"""One answer as text: the way from a prompt through the template and the decoder and back."""

from typing import Any

from tutelage.data.types import Message
from tutelage.encode.template import Template
from tutelage.generate.decode import stream
from tutelage.generate.sampling import Sampling

ANSWER_TOKENS = 160  # enough for a paragraph; the report says where an answer was cut


def answer(
    model: Any, template: Template, prompt: str, *, system: str | None = None, max_tokens: int = ANSWER_TOKENS
) -> str:
    """The model's greedy answer to one user message; "…" at its end means that it was cut at `max_tokens`."""
    messages = [Message("user", prompt)]
    if system is not None:
        messages.insert(0, Message("system", system))
    ids = stream(
        model, template.prompt(messages), sampling=Sampling(), stop_ids=template.stop_ids, max_tokens=max_tokens
    )
    answered = list(ids)
    text = str(template.tokenizer.decode(answered, skip_special_tokens=True)).strip()
    return text + " …" if len(answered) == max_tokens else text
