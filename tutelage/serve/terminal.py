"""A conversation in the terminal: history, commands, answers that stream and can be stopped."""

import contextlib
import importlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO, cast

import torch

from tutelage.data.types import Message
from tutelage.encode.template import Template
from tutelage.errors import TutelageError, UsageError
from tutelage.generate.decode import Memory, Reason, stream
from tutelage.generate.sampling import Sampling
from tutelage.generate.text import pieces

Write = Callable[[str], None]
PROMPT = "> "
HELP = """/system TEXT  begin anew with this system prompt (alone: without one)
/reset        begin anew
/exit         leave (also Ctrl-D); Ctrl-C stops an answer
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `reason`: "stop", "length", "context", or "interrupted" by Ctrl-C."""

    text: str
    reason: Reason | Literal["interrupted"]


@dataclass
class Talk:
    """A conversation with a model so far. `tokens` and `seconds` are those of all answers."""

    model: Any
    tokenizer: Any
    template: Template
    sampling: Sampling
    max_tokens: int
    generator: torch.Generator
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens must be 1 or more, and is {self.max_tokens}", where="max_tokens")
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        self.messages = [Message("system", self.system)] if self.system else []

    def as_json(self) -> dict[str, Any]:
        """What a program wants to know of it."""
        messages = [{"role": message.role, "content": message.content} for message in self.messages]
        return {"messages": messages, "tokens": self.tokens, "seconds": round(self.seconds, 3)}


def reply(talk: Talk, question: str, write: Write, *, interruptible: bool = False) -> Answer:
    """Ask, write the answer piece by piece, and keep both in the history; an error leaves the history as it was.

    With `interruptible`, Ctrl-C ends the answer; what was written of it stays in the history, as the reader saw it.
    """
    asked = [*talk.messages, Message("user", question)]
    written: list[str] = []
    start = time.perf_counter()
    reason: Reason | Literal["interrupted"] = "interrupted"
    try:
        ids = talk.template.prompt(asked)
        text = pieces(_counted(talk, ids), lambda window: str(talk.tokenizer.decode(window, **DECODING)))
        while True:
            try:
                piece = next(text)
            except StopIteration as end:
                reason = end.value
                break
            written.append(piece)
            write(piece)
    except KeyboardInterrupt:
        if not interruptible:
            raise
    talk.seconds += time.perf_counter() - start
    if written or reason != "interrupted":  # stopped before the first word: as if it had not been asked
        talk.messages = [*asked, Message("assistant", "".join(written))]
    write("\n")
    return Answer("".join(written), reason)


# Cleaning up would change text that is already written; special tokens are the template's, not the answer's.
DECODING = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


def _counted(talk: Talk, ids: Any) -> Generator[int, None, Reason]:
    """The stream of an answer's ids; each is counted as it comes, so that a stopped answer counts right too."""
    answer = stream(
        talk.model, ids, sampling=talk.sampling, stop_ids=talk.template.stop_ids, max_tokens=talk.max_tokens,
        generator=talk.generator, memory=talk.memory,
    )  # fmt: skip
    while True:
        try:
            chosen = next(answer)
        except StopIteration as end:
            return cast(Reason, end.value)
        talk.tokens += 1
        yield chosen


NOTES = {
    "length": "(cut at {limit} tokens: --max-tokens)",
    "context": "(the model's context is full: /reset begins anew)",
    "interrupted": "(stopped)",
}


def converse(talk: Talk, lines: TextIO, write: Write, *, name: str) -> None:
    """Answer each line of `lines` until it ends or says /exit."""

    def heard(line: str, person: bool) -> bool:
        if line.startswith("/"):
            return command(talk, line, write)
        _answer(talk, line, write, person)
        return False

    each_line(lines, write, f"{name}. /help tells the commands.", heard)


def each_line(lines: TextIO, write: Write, greeting: str, heard: Callable[[str, bool], bool]) -> None:
    """Call `heard` with each line that is not empty, and whether a person types them, until it says to leave or `lines` ends.

    A person at a terminal gets a prompt, a pipe none.
    """
    person = lines.isatty()
    if person:
        with contextlib.suppress(ImportError):  # where there is one, it gives `input` line editing
            importlib.import_module("readline")
        write(f"{greeting}\n")
    while True:
        try:
            line = _read(lines, person, write)
            if line is None or (line and heard(line, person)):
                return
        except KeyboardInterrupt:  # at the prompt, or just before or behind an answer
            if not person:
                raise
            write("\n(Ctrl-D or /exit leaves)\n")


def _read(lines: TextIO, person: bool, write: Write) -> str | None:
    """The next line without its end, or None at the end of input."""
    if not person:
        line = lines.readline()
        return line.strip() if line else None
    try:
        return input(PROMPT).strip()
    except EOFError:
        write("\n")
        return None


def _answer(talk: Talk, line: str, write: Write, person: bool) -> None:
    try:
        answer = reply(talk, line, write, interruptible=person)
    except TutelageError as error:  # e.g. a prompt that no longer fits: the talk goes on, /reset helps
        if not person:
            raise
        write(f"error: {error}\n")
        return
    if person and answer.reason in NOTES:
        write(NOTES[answer.reason].format(limit=talk.max_tokens) + "\n")


def command(talk: Talk, line: str, write: Write) -> bool:
    """Do what a line that begins with / says; whether it says to leave."""
    word, _, rest = line.partition(" ")
    if word == "/exit":
        return True
    if word == "/system":
        talk.system = rest.strip() or None
    elif word != "/reset":
        write(HELP if word == "/help" else f"there is no command {word}\n{HELP}")
        return False
    talk.reset()
    write("(a new conversation)\n")
    return False
