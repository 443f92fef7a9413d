"""Texts to tokens in pieces between control tokens, each distinct piece of a batch encoded once.

A byte-level tokenizer cuts a text at its control tokens first and treats what stands between them apart, so pieces give
the tokens of the whole. `independent` proves that of a tokenizer; others are encoded whole (`Template.tokenise`, the
reference). Where a turn begins among the tokens of a piece is known from encoding the piece's beginning by itself, which
the token contract asks for anyway; so no token's offsets are needed.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Encoding

from tutelage.encode.template import Template


def independent(template: Template) -> bool:
    """Whether pieces between control tokens are encoded independently of each other, and offsets never run backwards."""
    backend = template.backend
    if template.control is None or not template.piecewise or getattr(backend.model, "dropout", None):
        return False
    normalizer, splitter = _state(backend.normalizer), _state(backend.pre_tokenizer)
    steps = splitter.get("pretokenizers", [splitter])
    plain = {"Digits", "Split", "ByteLevel", "Punctuation"}
    if normalizer.get("type", "NFC") != "NFC" or steps[-1].get("type") != "ByteLevel":
        return False
    if any(step["type"] not in plain or step.get("add_prefix_space") for step in steps):
        return False
    after = _state(backend.post_processor)
    if any(step.get("trim_offsets") for step in after.get("processors", [after])):
        return False
    added = list(backend.get_added_tokens_decoder().values())
    special = [token.content for token in added if token.special]
    if any(t.lstrip or t.rstrip or t.single_word or (t.normalized and normalizer) for t in added if t.special):
        return False
    return not any(_overlaps(t.content, other) for t in added if not t.special for other in special)


def _state(part: Any) -> dict[str, Any]:
    return {} if part is None else json.loads(part.__getstate__())


def _overlaps(ordinary: str, special: str) -> bool:
    """Whether an ordinary added token could swallow the beginning of a control token."""
    return special in ordinary or any(special.startswith(ordinary[i:]) for i in range(1, len(ordinary)))


@dataclass(frozen=True, slots=True)
class Cut:
    """A text in pieces: where each starts, and what it is: a number of `Pieces.numbers`, or ~id of a control token.

    `edges`: for places inside a piece, (piece, number of its beginning up to there, which is encoded by itself).
    """

    text: str
    starts: list[int]
    what: list[int]
    edges: dict[int, tuple[int, int]]


class Pieces:
    """The distinct pieces of a batch of texts, numbered."""

    def __init__(self, template: Template) -> None:
        assert template.control is not None
        self.split = re.compile(f"({template.control.pattern})").split
        self.id_of: Callable[[str], int] = template.tokenizer.convert_tokens_to_ids
        self.control: dict[str, int] = {}
        self.numbers: dict[str, int] = {}

    def cut(self, text: str, edges: Iterable[int]) -> Cut:
        """`text` in pieces; `edges` are the places in it that `Tokens.at` will be asked for."""
        starts: list[int] = []
        what: list[int] = []
        at, numbers, control = 0, self.numbers, self.control
        for index, piece in enumerate(self.split(text)):
            if index & 1:
                if piece not in control:
                    control[piece] = self.id_of(piece)
                starts.append(at)
                what.append(~control[piece])
            elif piece:
                starts.append(at)
                what.append(numbers.setdefault(piece, len(numbers)))
            at += len(piece)
        begun = {}
        for edge in edges:
            k = bisect_right(starts, edge) - 1
            if starts[k] < edge < at and what[k] >= 0:
                begun[edge] = (k, numbers.setdefault(text[starts[k] : edge], len(numbers)))
        return Cut(text, starts, what, begun)


class Tokens:
    """The encoded pieces of a batch; answers for each text of it."""

    def __init__(self, template: Template, encodings: list[Encoding]) -> None:
        self.backend = template.backend
        self.ids = [encoding.ids for encoding in encodings]

    def of(self, cut: Cut, into: list[int]) -> list[int]:
        """Append the ids of a text to `into`; returns the places of its pieces in `into`, its end last."""
        places = []
        for what in cut.what:
            places.append(len(into))
            if what < 0:
                into.append(~what)
            else:
                into += self.ids[what]
        places.append(len(into))
        return places

    def begins(self, cut: Cut, edge: int) -> bool:
        """Whether the text up to `edge`, encoded by itself, is how its tokens begin; the pieces before are the same."""
        if edge not in cut.edges:
            return True
        k, number = cut.edges[edge]
        begun = self.ids[number]
        return self.ids[cut.what[k]][: len(begun)] == begun

    def at(self, cut: Cut, places: list[int], edge: int) -> tuple[int, int]:
        """(place of the first token that starts at or behind `edge`, place behind the last one that ends at or before it)."""
        if edge >= len(cut.text):
            return places[-1], places[-1]
        k = bisect_right(cut.starts, edge) - 1
        if cut.starts[k] == edge:
            return places[k], places[k]
        if cut.what[k] < 0:
            return places[k] + 1, places[k]
        first, before = self._inside(cut, k, edge)
        return places[k] + first, places[k] + before

    def _inside(self, cut: Cut, k: int, edge: int) -> tuple[int, int]:
        """Where its beginning is how the piece's tokens begin, they end there: byte-level tokens lose no character."""
        if self.begins(cut, edge):
            count = len(self.ids[cut.edges[edge][1]])
            return count, count
        start = cut.starts[k]
        stop = cut.starts[k + 1] if k + 1 < len(cut.starts) else len(cut.text)
        offsets = self.backend.encode(cut.text[start:stop], add_special_tokens=False).offsets
        first = next((i for i, (a, _) in enumerate(offsets) if a >= edge - start), len(offsets))
        return first, sum(b <= edge - start for _, b in offsets)
