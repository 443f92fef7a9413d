"""What a chat template writes around messages, learnt once for each order of roles and filled in for each row.

A template is run once on texts that it may write out, join and strip but not look at (`Unread`). Where that succeeds,
what it writes cannot depend on the texts, so for every row with these roles the rendering is the same literals with the
row's own texts between them: one join in place of two renderings for each turn. Tests of a text for a fixed part
(`'</think>' in content`) are answered with "no", and rows for which that is wrong are rendered the plain way, as is
everything else that a template looks at: see `Template.render`, the reference.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NoReturn

from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

# Quotes, a backslash and white space at both ends: escaping or stripping what holds it leaves a mark that is not found.
MARK = ' \n"\\<\U000ffffb{}\U000ffffb>\\"\n '
MARKS = re.compile(re.escape(MARK.format("@")).replace("@", r"(\d+)"))
SAMPLES = ("x", " two words\n", "Zeile 1\n\n* Zeile 2 – 🙂 ")


class LookedAtError(Exception):
    """The template looks at a message's text."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The text of message `message`, stripped by the str method `method` ("" is not at all) of the characters `of`."""

    message: int
    method: str = ""
    of: tuple[str | None, ...] = ()

    def text(self, contents: Sequence[str]) -> str:
        """What stands in the slot."""
        content = contents[self.message]
        return getattr(content, self.method)(*self.of) if self.method else content


@dataclass(frozen=True, slots=True)
class Absent:
    """A condition: `content.method(part)` is false for message `message` (stripped as its slot says)."""

    slot: Slot
    method: str
    part: str

    def holds(self, contents: Sequence[str]) -> bool:
        """Whether these contents keep to it."""
        return not getattr(self.slot.text(contents), self.method)(self.part)


class Journal:
    """The slots that a template writes, and the conditions under which."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.conditions: list[Absent] = []

    def unread(self, slot: Slot) -> "Unread":
        """The text that stands for `slot`."""
        if slot not in self.slots:
            self.slots.append(slot)
        return Unread.of(MARK.format(self.slots.index(slot)), self, slot)


class Unread(str):
    """A text that can be written, joined and (as long as it is a message's own) stripped; to look at it is an error."""

    journal: Journal
    slot: Slot | None

    @classmethod
    def of(cls, text: str, journal: Journal, slot: Slot | None) -> "Unread":
        """`text`, which is that of `slot`, or several joined."""
        made = cls(text)
        made.journal, made.slot = journal, slot
        return made

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> "Unread":
        return Unread.of(str.__add__(self, other), self.journal, None)

    def __radd__(self, other: str) -> "Unread":
        return Unread.of(str.__add__(other, self), self.journal, None)


def _stripped(method: str) -> Callable[..., Unread]:
    def strip(self: Unread, *of: str | None) -> Unread:
        if self.slot is None or self.slot.method:
            raise LookedAtError(method)
        return self.journal.unread(Slot(self.slot.message, method, of))

    return strip


def _absent(method: str) -> Callable[..., bool]:
    def test(self: Unread, part: object, *rest: object) -> bool:
        if self.slot is None or rest or type(part) is not str:
            raise LookedAtError(method)
        self.journal.conditions.append(Absent(self.slot, method, part))
        return False

    return test


def _forbidden(method: str) -> Callable[..., NoReturn]:
    def refuse(self: Unread, *arguments: object) -> NoReturn:
        raise LookedAtError(method)

    return refuse


OF_OBJECTS = {"__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__", "__doc__", "__dir__",
              "__init_subclass__", "__subclasshook__", "__reduce__", "__reduce_ex__", "__sizeof__"}  # fmt: skip
for _name in {*dir(str), "__bool__"} - OF_OBJECTS - {"__str__", "__add__"}:
    _of = {"strip": _stripped, "lstrip": _stripped, "rstrip": _stripped,
           "__contains__": _absent, "startswith": _absent, "endswith": _absent}  # fmt: skip
    setattr(Unread, _name, _of.get(_name, _forbidden)(_name))


Position = tuple[int, int]  # (part, characters behind its start); even parts are literals, odd ones slots


@dataclass(frozen=True, slots=True)
class Skeleton:
    """`literals` with `slots` between them. `turns`: (prompt's end, turn's end, weight) of each trained turn."""

    literals: tuple[str, ...]
    slots: tuple[Slot, ...]
    conditions: tuple[Absent, ...]
    turns: tuple[tuple[Position, Position, float], ...]
    leads: tuple[str, ...]

    def fill(self, contents: Sequence[str]) -> tuple[str, list[tuple[int, int, float]]] | None:
        """The rendering of messages with these contents and its trained turns; None where a condition does not hold."""
        if not all(condition.holds(contents) for condition in self.conditions):
            return None
        parts = [self.literals[0]]
        for slot, literal in zip(self.slots, self.literals[1:]):
            parts += (slot.text(contents), literal)
        starts = [0, *accumulate(map(len, parts))]
        turns = [(starts[p] + a, starts[q] + b, weight) for (p, a), (q, b), weight in self.turns]
        return "".join(parts), turns


def learn(
    text: str, special: dict[str, Any], roles: Sequence[str], trained: Sequence[tuple[int, float]], leads: Sequence[str]
) -> Skeleton | None:
    """The skeleton of the template `text` for messages of these roles; None where it looks at their texts, or refuses them.

    `special` are the special tokens that the template may use, `trained` the (message, weight) of the trained turns.
    """
    journal = Journal()
    messages = [{"role": role, "content": journal.unread(Slot(i))} for i, role in enumerate(roles)]
    compiled = _compile_jinja_template(text)

    def rendered(upto: int, prompt: bool = False) -> str:
        copies = [dict(message) for message in messages[:upto]]
        made = compiled.render(messages=copies, tools=None, documents=None, add_generation_prompt=prompt, **special)
        return "".join(made)  # an exact str

    try:
        whole = rendered(len(messages))
        spans = [(rendered(k, True), rendered(k + 1), weight) for k, weight in trained]
    except Exception:  # LookedAtError, or whatever a template raises: the plain way will say so
        return None
    if not all(upto.startswith(before) and whole.startswith(upto) for before, upto, _ in spans):
        return None
    pieces = MARKS.split(whole)
    literals, marks = pieces[::2], [int(number) for number in pieces[1::2]]
    if "\U000ffffb" in "".join(literals):  # a mark that was changed on its way
        return None
    turns = []
    for before, upto, weight in spans:
        start, stop = _position(before), _position(upto)
        if start is None or stop is None:
            return None
        turns.append((start, stop, weight))
    found = Skeleton(
        tuple(literals),
        tuple(journal.slots[i] for i in marks),
        tuple(journal.conditions),
        tuple(turns),
        tuple(leads),
    )
    return found if _agrees(found, text, special, roles) else None


def _position(prefix: str) -> Position | None:
    """Where the prefix ends, unless that is inside a mark."""
    pieces = MARKS.split(prefix)
    return None if "\U000ffffb" in "".join(pieces[::2]) else (len(pieces[::2]) * 2 - 2, len(pieces[-1]))


def _agrees(found: Skeleton, text: str, special: dict[str, Any], roles: Sequence[str]) -> bool:
    """Whether transformers' own rendering of ordinary texts is what the skeleton gives for them."""
    for sample in SAMPLES:
        contents = [f"{sample}{i}{sample}" for i in range(len(roles))]
        filled = found.fill(contents)
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents)]
        theirs, _ = render_jinja_template(conversations=[messages], chat_template=text, **special)
        if filled is None or filled[0] != theirs[0]:
            return False
    return True
