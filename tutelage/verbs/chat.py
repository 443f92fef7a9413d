"""The verb `chat`."""

import sys
from collections.abc import Callable
from typing import Any

import torch

from tutelage.generate.sampling import Sampling
from tutelage.methods.opening import open_model
from tutelage.serve.terminal import Talk, converse, reply


def chat(
    model: str,
    *,
    prompt: str | None = None,
    system: str | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 512,
    seed: int = 0,
    base: bool = False,
    say: Callable[[str], None] | None = None,
    write: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The conversation: `model`, `messages`, `tokens` and `seconds` of the answers; with `prompt` also its `answer`.

    `write` hears the answers as they come. Without `prompt` the questions are read from stdin, line by line.
    """
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)  # wrong settings fail before a model is read
    opened = open_model(model, base=base, say=say or (lambda line: None))
    talk = Talk(
        opened.model, opened.tokenizer, opened.template, sampling, max_tokens,
        torch.Generator(opened.model.device).manual_seed(seed), system,
    )  # fmt: skip
    if prompt is not None:
        answer = reply(talk, prompt, write or (lambda text: None))
        return {"model": opened.name, "answer": answer.text, "ended": answer.reason, **talk.as_json()}
    converse(talk, sys.stdin, write or _print, name=opened.name)
    return {"model": opened.name, **talk.as_json()}


def _print(text: str) -> None:
    print(text, end="", flush=True)
