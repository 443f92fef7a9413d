"""The verb `chat`."""

import sys
from collections.abc import Callable
from typing import Any

import torch

from tutelage.errors import DataError, UsageError
from tutelage.generate.sampling import Sampling
from tutelage.methods.opening import locate, open_located
from tutelage.serve.served_task import open_worker, task_of
from tutelage.serve.terminal import Talk, converse, each_line, reply
from tutelage.serve.terminal_task import asker


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

    `write` hears the answers as they come. Without `prompt` the questions are read from stdin, line by line. A model that labels,
    marks entities or rewrites answers each text alone: `prompt` gives what its route of `serve` does, and `answer`.
    """
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)  # wrong settings fail before a model is read
    place = locate(model, base=base, say=say or (lambda line: None))
    if (task := task_of(place)) is not None:
        settings = {"system": system is not None, "temperature": temperature, "top_p": top_p < 1, "top_k": top_k}
        _refuse(model, task, [name for name, given in settings.items() if given])
        ask = asker(task, model)
        worker = open_worker(place.name, place, task, "auto", say or (lambda line: None), base=base)
        return _texts(place.name, task, prompt, lambda text: ask(worker, text), write or _print)
    opened = open_located(place)
    talk = Talk(
        opened.model, opened.tokenizer, opened.template, sampling, max_tokens,
        torch.Generator(opened.model.device).manual_seed(seed), system,
    )  # fmt: skip
    if prompt is not None:
        answer = reply(talk, prompt, write or (lambda text: None))
        return {"model": opened.name, "answer": answer.text, "ended": answer.reason, **talk.as_json()}
    converse(talk, sys.stdin, write or _print, name=opened.name)
    return {"model": opened.name, **talk.as_json()}


def _refuse(model: str, task: str, settings: list[str]) -> None:
    """Settings of a conversation, for a model that has none."""
    if settings:
        raise UsageError(
            f"`{settings[0]}` does nothing here", where=settings[0], why=f"{model} does the task {task}, as its recipe says",
            fix="leave it out",
        )  # fmt: skip


def _texts(
    name: str, task: str, prompt: str | None, ask: Callable[[str], dict[str, Any]], write: Callable[[str], None]
) -> dict[str, Any]:
    """Each text with its answer."""
    if prompt is not None:
        found = ask(prompt)
        write(f"{found['answer']}\n")
        return {"model": name, "task": task, **found}
    answered, told = 0, f"{name}, {task}. Each line is a text; /exit or Ctrl-D leaves."

    def heard(line: str, person: bool) -> bool:
        nonlocal answered
        if line == "/exit":
            return True
        if line == "/help":
            write(f"{told}\n")
            return False
        try:
            write(f"{ask(line)['answer']}\n")
        except DataError as error:  # e.g. a line that is too long: the next one may fit
            if not person:
                raise
            write(f"error: {error}\n")
        answered += 1
        return False

    each_line(sys.stdin, write, told, heard)
    return {"model": name, "task": task, "texts": answered}


def _print(text: str) -> None:
    print(text, end="", flush=True)
