import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tutelage.errors import DataError, UsageError
from tutelage.generate.decode import Memory
from tutelage.generate.sampling import Sampling
from tutelage.methods.opening import Opened, open_model
from tutelage.serve.terminal import Talk, converse, reply


@pytest.fixture(scope="module")
def opened(model_folder: Callable[[str], Path]) -> Opened:
    return open_model(str(model_folder("llama")))


@pytest.fixture
def talk(opened: Opened) -> Callable[..., Talk]:
    def make(max_tokens: int = 6, system: str | None = None, sampling: Sampling | None = None) -> Talk:
        return Talk(
            opened.model, opened.tokenizer, opened.template, sampling or Sampling(), max_tokens,
            torch.Generator().manual_seed(0), system,
        )  # fmt: skip

    return make


def roles(talk: Talk) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in talk.messages]


def test_an_answer_streams_and_both_turns_are_kept(talk: Callable[..., Talk]) -> None:
    one, written = talk(), []
    answer = reply(one, "Why is the sky blue?", written.append)
    assert len(written) > 2
    assert "".join(written) == answer.text + "\n"
    assert roles(one) == [("user", "Why is the sky blue?"), ("assistant", answer.text)]
    assert (one.tokens, answer.reason) == (6, "length")
    assert one.seconds > 0


def test_the_answer_is_the_decoded_greedy_continuation_of_the_templates_prompt(
    talk: Callable[..., Talk], opened: Opened
) -> None:
    one = talk(max_tokens=10, system="Be brief.")
    answer = reply(one, "Hello", lambda text: None)
    ids = torch.tensor([opened.template.prompt(one.messages[:-1]).tolist()])
    out = opened.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
    assert answer.text == opened.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_conversation_with_memory_says_what_one_without_says(talk: Callable[..., Talk]) -> None:
    kept, fresh = talk(), talk()
    for question in ("one", "two", "three"):
        fresh.memory = Memory()
        assert reply(kept, question, lambda text: None) == reply(fresh, question, lambda text: None)
    assert len(kept.messages) == 6


def test_a_pipe_gets_only_answers(talk: Callable[..., Talk]) -> None:
    one, written = talk(), []
    converse(one, io.StringIO("What is water?\n\n  And then?  \n"), written.append, name="m")
    answers = [text for role, text in roles(one) if role == "assistant"]
    assert "".join(written) == "".join(f"{answer}\n" for answer in answers)
    assert [text for role, text in roles(one) if role == "user"] == ["What is water?", "And then?"]


def test_commands(talk: Callable[..., Talk]) -> None:
    one, written = talk(system="Old."), []
    lines = "a\n/reset\n/what\n/system New one.\nb\n/system\n/help\n/exit\nnever asked\n"
    seen: list[list[str]] = []

    def write(text: str) -> None:
        written.append(text)
        seen.append([role for role, _ in roles(one)])

    converse(one, io.StringIO(lines), write, name="m")
    text = "".join(written)
    assert text.count("(a new conversation)") == 3
    assert "there is no command /what" in text
    assert text.count("/system TEXT") == 2
    assert one.messages == []
    assert ["system", "user", "assistant"] in seen
    assert one.tokens <= 12  # two answers: nothing behind /exit was asked


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(talk: Callable[..., Talk]) -> None:
    one, written = talk(max_tokens=200), []

    def write(text: str) -> None:
        written.append(text)
        if len(written) == 3:
            signal.raise_signal(signal.SIGINT)

    answer = reply(one, "Count", write, interruptible=True)
    assert answer.reason == "interrupted"
    assert roles(one)[-1] == ("assistant", "".join(written[:3]))
    assert one.tokens < 200
    assert reply(one, "And on", lambda text: None).text  # the conversation goes on
    written.clear()
    with pytest.raises(KeyboardInterrupt):
        reply(one, "Again", write)


def test_ctrl_c_before_the_first_word_takes_the_question_back(talk: Callable[..., Talk]) -> None:
    one = talk()
    reply(one, "Hello", lambda text: None)
    before = list(one.messages)

    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    hook = one.model.register_forward_pre_hook(interrupt)
    answer = reply(one, "Again", lambda text: None, interruptible=True)
    hook.remove()
    assert (answer.text, answer.reason) == ("", "interrupted")
    assert one.messages == before


def test_a_conversation_that_no_longer_fits_is_a_sentence_and_leaves_the_history_alone(
    talk: Callable[..., Talk],
) -> None:
    one = talk()
    reply(one, "short", lambda text: None)
    before = list(one.messages)
    with pytest.raises(DataError, match="this model reads at most 512"):
        reply(one, "apples and pears " * 400, lambda text: None)
    assert one.messages == before


def test_an_answer_needs_room(talk: Callable[..., Talk]) -> None:
    with pytest.raises(UsageError, match="max_tokens must be 1 or more"):
        talk(max_tokens=0)


def test_the_text_of_a_control_token_does_not_end_the_users_turn(talk: Callable[..., Talk], opened: Opened) -> None:
    one = talk()
    reply(one, "a<|im_end|>b", lambda text: None)
    prompt = opened.template.prompt(one.messages[:1]).tolist()
    end = opened.tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain = opened.template.prompt([type(one.messages[0])("user", "ab")]).tolist()
    assert prompt.count(end) == plain.count(end)


class Terminal:
    """`tutelage chat` on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tutelage", "chat", *arguments], stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, env={**os.environ, "TERM": "dumb"},
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def until(self, *wanted: str, seconds: float = 60) -> str:
        """Read until one of `wanted` stands on the screen behind what was waited for before; returns which."""
        end = time.monotonic() + seconds
        while not (found := [text for text in wanted if text in self.text]):
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"waited for {wanted}, and read {self.text!r}"
            self.text += os.read(self.master, 4096).decode(errors="replace")
        self.text = self.text.partition(found[0])[2]
        return found[0]

    def more(self, seconds: float = 60) -> None:
        """Wait for anything behind what was waited for before."""
        if not self.text:
            ready, _, _ = select.select([self.master], [], [], seconds)
            assert ready, "waited for more, and nothing came"
            self.text += os.read(self.master, 4096).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def leave(self) -> int:
        code = self.process.wait(timeout=30)
        os.close(self.master)
        return code


def test_on_a_real_terminal_ctrl_c_stops_an_answer_and_ctrl_d_leaves(model_folder: Callable[[str], Path]) -> None:
    terminal = Terminal(str(model_folder("llama")), "--max-tokens", "400", "--temperature", "2")
    terminal.until("/help tells the commands.")
    terminal.until("> ")
    for attempt in range(3):  # a key that comes while the line editor takes over the terminal is lost
        terminal.type("\x03")
        try:
            terminal.until("(Ctrl-D or /exit leaves)", seconds=15)
            break
        except AssertionError:
            assert attempt < 2, "Ctrl-C at the prompt is not answered"
    terminal.until("> ")
    for _ in range(20):  # on a busy machine an answer may be over before it can be stopped
        terminal.type("Hello\r")
        terminal.until("Hello\r\n")
        terminal.more()  # Ctrl-C between Enter and the answer's first word is one at the prompt
        terminal.type("\x03")
        said = terminal.until("(stopped)", "(Ctrl-D or /exit leaves)")
        terminal.until("> ")
        if said == "(stopped)":
            break
        terminal.type("/reset\r")  # answers that were over fill the context, until none has room to be stopped in
        terminal.until("(a new conversation)")
        terminal.until("> ")
    assert said == "(stopped)"
    terminal.type("/reset\r")
    terminal.until("(a new conversation)")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.leave() == 0
