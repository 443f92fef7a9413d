"""A GGUF file with the Modelfile that makes Ollama render prompts and stop exactly as in training.

Ollama guesses a prompt format where it does not recognise a chat template, so the format is always written out in its
own template language. That works for templates that write message after message; the text of each message is found by
rendering markers, and the result is compared with the real template on conversations of several shapes.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage.data.types import Message
from tutelage.encode.template import Template
from tutelage.errors import ModelError
from tutelage.export.gguf_file import FILE, GgufFile
from tutelage.export.types import EXPORTERS, Bounds, Replica, Source

MARK = "zqxjv"
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Format:
    """What a template writes: `around[role]` before and behind a message, `opening` before everything, `answer` at the end."""

    opening: str
    around: dict[str, tuple[str, str]]
    answer: str
    default_system: str | None

    def render(self, messages: Sequence[Message]) -> str:
        """What Ollama will send for these messages."""
        if self.default_system is not None and messages[0].role != "system":
            messages = [Message("system", self.default_system), *messages]
        text = "".join(self.around[m.role][0] + m.content + self.around[m.role][1] for m in messages)
        return self.opening + text + self.answer


class Ollama:
    """Writes model.gguf and Modelfile; opened again as the GGUF file it is."""

    precisions: tuple[str, ...] = GgufFile.precisions

    def write(self, source: Source, folder: Path, precision: str) -> None:
        text = modelfile(source.template)
        GgufFile().write(source, folder, precision)
        (folder / "Modelfile").write_text(text, encoding="utf-8")

    def reopen(self, source: Source, folder: Path) -> Replica:
        return GgufFile().reopen(source, folder)

    def bounds(self, precision: str) -> Bounds:
        return GgufFile().bounds(precision)


EXPORTERS.add("ollama")(Ollama())


def find_format(template: Template) -> Format:
    """The template as prefixes and suffixes of messages; a template that is more than that is a ModelError."""
    system, user, assistant = (Message(role, MARK + role) for role in ROLES)  # type: ignore[arg-type]

    def text(*messages: Message, prompt: bool = False) -> str:
        return template.render_text(messages, (), prompt=prompt)

    try:
        alone = text(user)
        before_user = alone.partition(MARK + "user")[0]
        whole = text(system, user, assistant, user)
        opening, _, rest = whole.partition(MARK + "system")
        between, _, rest = rest.partition(MARK + "user")
        answer_start, _, rest = rest.partition(MARK + "assistant")
        again, _, end = rest.partition(MARK + "user")
        prompt = text(system, user, assistant, user, prompt=True)
        answer = prompt.removeprefix(whole)
    except Exception as error:  # a template may refuse a role
        raise _refuse(str(error)) from error
    after_user = end
    before_assistant = answer_start.removeprefix(after_user)
    user_lead = _common_suffix(between, again)
    after_system, after_assistant = between.removesuffix(user_lead), again.removesuffix(user_lead)
    bos = template.tokenizer.bos_token or ""
    stripped = bos if bos and _adds_bos(template) and opening.startswith(bos) else ""
    default = before_user.removesuffix(user_lead)
    known = opening.removeprefix(stripped)
    default = default.removeprefix(stripped)
    # A system prompt that the template writes by itself, between the words it puts around any system prompt.
    inner = default.removeprefix(known).removesuffix(after_system) if default.startswith(known) and default else None
    around = {
        "system": (known, after_system), "user": (user_lead, after_user),
        "assistant": (before_assistant, after_assistant),
    }  # fmt: skip
    found = Format("", around, answer, inner)
    _prove(found, template, stripped)
    return found


def _common_suffix(one: str, other: str) -> str:
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(reversed(one), reversed(other)))
    shared = "".join(pair[0] for pair in pairs)[::-1]
    # The end of a turn belongs to the message before: the lead begins with its first control token or line.
    at = shared.rfind("<")
    return shared[at:] if at > 0 else shared


def _adds_bos(template: Template) -> bool:
    first = template.backend.encode("a", add_special_tokens=True).ids
    return bool(first) and first[0] == template.tokenizer.bos_token_id


def _prove(found: Format, template: Template, stripped: str) -> None:
    shapes = ["u", "su", "uau", "suau", "uauau", "suauau"]
    names = {"s": "system", "u": "user", "a": "assistant"}
    for shape in shapes:
        for words in ("Hello there.", '1 < 2\n\n  and {{ x }} "q" .'):
            messages = [Message(names[letter], f"{words}{i}") for i, letter in enumerate(shape)]  # type: ignore[arg-type]
            wanted = template.render_text(messages, (), prompt=True).removeprefix(stripped)
            if found.render(messages) != wanted:
                raise _refuse(f"for the roles {shape}: {found.render(messages)[:120]!r} instead of {wanted[:120]!r}")


def _refuse(why: str) -> ModelError:
    return ModelError(
        "this chat template cannot be written as an Ollama template", why=why,
        fix="--to gguf, and run it with llama.cpp (llama-server --jinja)",
    )  # fmt: skip


def modelfile(template: Template) -> str:
    """The text of the Modelfile."""
    found = find_format(template)
    branches = []
    for number, (role, (before, after)) in enumerate(found.around.items()):
        word = "if" if number == 0 else "else if"
        branches.append(f'{{{{ {word} eq .Role "{role}" }}}}{_plain(before)}{{{{ .Content }}}}{_plain(after)}')
    body = "{{ range .Messages }}" + "".join(branches) + "{{ end }}{{ end }}" + _plain(found.answer)
    stops = [template.tokenizer.convert_ids_to_tokens(i) for i in sorted(template.stop_ids)]
    lines = [f"FROM ./{FILE}", f'TEMPLATE """{body}"""']
    if found.default_system is not None:
        lines.append(f'SYSTEM """{_quoted(found.default_system)}"""')
    lines += [f'PARAMETER stop "{_escaped(stop)}"' for stop in stops]
    lines.append("PARAMETER temperature 0")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    if "{{" in text or '"""' in text:
        raise _refuse(f"it writes {text!r} itself")
    return text


def _quoted(text: str) -> str:
    if '"""' in text:
        raise _refuse(f"its system prompt holds three quotes: {text!r}")
    return text


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
