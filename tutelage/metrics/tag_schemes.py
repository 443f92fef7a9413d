"""From one tag per word to entities: BIO (IOB2), IOB1, IOBES and BILOU.

Two readings, as in seqeval. `lenient` (its default, that of the CoNLL script): whatever begins or changes type begins an
entity, so nothing that a model tags is lost. `strict`: only what the scheme allows is an entity. IOBES and BILOU differ
in letters only: L is E, and U is S.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tutelage.registry import Registry

Scheme = Literal["bio", "iob1", "iobes", "bilou"]
LETTERS = {"L": "E", "U": "S"}


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """Words [start, stop) of a row."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag's letter (B, I, O, E, S) and type."""

    letter: str
    kind: str


OUTSIDE = Tag("O", "")


def read_tag(text: str) -> Tag:
    """`B-PER` as its letter and type; a bare letter has the type `_`."""
    letter, kind = text[:1], text[1:].strip("-") or "_"
    return Tag(LETTERS.get(letter, letter), kind) if letter != "O" else OUTSIDE


def lenient(tags: Sequence[str]) -> set[Entity]:
    """The entities as the CoNLL script and seqeval's default read them."""
    found, start, before = set(), 0, OUTSIDE
    for index, tag in enumerate([*map(read_tag, tags), OUTSIDE]):
        changed = before.kind != tag.kind
        begins = tag.letter in "BS" or (before.letter in "OES" and tag.letter in "EI")
        if before.letter != "O" and (before.letter in "ES" or tag.letter in "BSO" or changed):
            found.add(Entity(before.kind, start, index))
        if tag.letter != "O" and (begins or changed):
            start = index
        before = tag
    return found


@dataclass(frozen=True, slots=True)
class Rules:
    """What a scheme allows between two neighbouring tags: beginning, going on, and ending before the second."""

    letters: str
    begins: Callable[[Tag, Tag], bool]
    continues: Callable[[Tag, Tag], bool]
    ends: Callable[[Tag, Tag], bool]


def strict(tags: Sequence[str], scheme: Scheme) -> set[Entity]:
    """The entities that `scheme` allows, as seqeval's strict mode reads them."""
    rules = SCHEMES.get(scheme)
    return set(_strict([*map(read_tag, tags), OUTSIDE], rules))


def _strict(tags: list[Tag], rules: Rules) -> Iterator[Entity]:
    index, before = 0, OUTSIDE
    while index < len(tags):
        start = index
        index += 1
        if rules.begins(before, tags[start]):
            while rules.continues(tags[index - 1], tags[index]):
                index += 1
            if rules.ends(tags[index - 1], tags[index]):
                yield Entity(tags[start].kind, start, index)
        before = tags[index - 1]


def _bio_begins(before: Tag, tag: Tag) -> bool:
    return tag.letter == "B"


def _goes_on(before: Tag, tag: Tag) -> bool:
    return before.letter in "BI" and tag.letter == "I" and before.kind == tag.kind


def _always(before: Tag, tag: Tag) -> bool:
    return True


def _iob1_begins(before: Tag, tag: Tag) -> bool:
    if tag.letter == "I":
        return before.letter in "OB" or before.kind != tag.kind
    return tag.letter == "B" and before.letter in "IB" and before.kind == tag.kind


def _iob1_ends(before: Tag, tag: Tag) -> bool:
    return not (before.letter == tag.letter == "B" and before.kind != tag.kind)


def _full_begins(before: Tag, tag: Tag) -> bool:
    return tag.letter in "BS"


def _full_goes_on(before: Tag, tag: Tag) -> bool:
    return before.letter in "BI" and tag.letter in "IE" and before.kind == tag.kind


def _full_ends(before: Tag, tag: Tag) -> bool:
    return before.letter in "ES"


SCHEMES: Registry[Rules] = Registry("tag scheme")
SCHEMES.add("bio")(Rules("BIO", _bio_begins, _goes_on, _always))
SCHEMES.add("iob1")(Rules("BIO", _iob1_begins, _goes_on, _iob1_ends))
SCHEMES.add("iobes")(Rules("BIOES", _full_begins, _full_goes_on, _full_ends))
SCHEMES.add("bilou")(Rules("BILOU", _full_begins, _full_goes_on, _full_ends))


def detect(rows: Sequence[Sequence[str]]) -> Scheme:
    """The scheme that the letters of reference tags speak for; BIO and IOB1 differ in whether an I may begin an entity."""
    letters = {tag[:1] for row in rows for tag in row}
    if letters & set("LU"):
        return "bilou"
    if letters & set("ES"):
        return "iobes"
    for row in rows:
        before = OUTSIDE
        for tag in map(read_tag, row):
            if tag.letter == "I" and (before.letter == "O" or before.kind != tag.kind):
                return "iob1"
            before = tag
    return "bio"
