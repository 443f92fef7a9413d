"""Texts with coloured parts: entities in tagged words, answers in the text that they stand in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tutelage.metrics.tag_schemes import lenient

COLOURS = 6  # of page.css: kinds beyond them share a colour, and each entity has its kind's name beside it
LOOKS = ("before", "after", "reference")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text; `look` is empty or classes of page.css, `name` stands behind it."""

    text: str
    look: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Marked:
    """A text in pieces, and a sentence about what is left out of it."""

    pieces: tuple[Piece, ...]
    rest: str = ""

    @property
    def text(self) -> str:
        """The whole of it, unmarked."""
        return "".join(piece.text for piece in self.pieces)


def kinds_of(tags: Sequence[Sequence[str]]) -> list[str]:
    """All kinds of entities, sorted: each keeps its colour all over a page."""
    return sorted({entity.kind for row in tags for entity in lenient(row)})


def entities(words: Sequence[str], tags: Sequence[str], kinds: Sequence[str]) -> Marked:
    """The words with their entities marked; there are as many tags as words."""
    pieces, at = [], 0
    for entity in sorted(lenient(tags), key=lambda one: one.start):
        pieces.append(Piece(" ".join(words[at : entity.start]) + (" " if at < entity.start else "")))
        look = f"kind-{kinds.index(entity.kind) % COLOURS}" if entity.kind in kinds else "kind-0"
        pieces += [Piece(" ".join(words[entity.start : entity.stop]), look, entity.kind), Piece(" ")]
        at = entity.stop
    pieces.append(Piece(" ".join(words[at:])))
    return Marked(tuple(piece for piece in pieces if piece.text))


def in_context(context: str, answers: Mapping[str, Sequence[str]], most: int) -> Marked:
    """At most `most` characters of the context around the first place of each answer; `answers` are texts by look."""
    places = {look: _places(context, texts) for look, texts in answers.items() if look in LOOKS}
    begins = [start for found in places.values() for start, _ in found]
    first = max(0, min(begins, default=0) - most // 3) if len(context) > most else 0
    last = min(len(context), first + most)
    edges = sorted(
        {first, last, *(min(max(e, first), last) for found in places.values() for pair in found for e in pair)}
    )
    pieces = []
    for start, stop in pairwise(edges):
        looks = [look for look in LOOKS if any(a <= start and stop <= b for a, b in places.get(look, ()))]
        pieces.append(Piece(context[start:stop], " ".join(looks)))
    hidden = len(context) - (last - first)
    return Marked(tuple(pieces), f"{hidden:,} more characters are not shown" if hidden else "")


def _places(context: str, texts: Sequence[str]) -> list[tuple[int, int]]:
    """Where each text first stands in the context, if it does."""
    found = ((context.find(text), len(text)) for text in texts if text)
    return [(start, start + size) for start, size in found if start >= 0]
