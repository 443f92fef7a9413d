"""Format `entities`: a text with entities as character spans."""

import itertools
import re

from tutelage.data.formats.fields import every, required_list, required_texts, wrong_type
from tutelage.data.formats.format import Format, RowDict, RowError
from tutelage.data.jsonvalue import type_name
from tutelage.data.rows import Tagged
from tutelage.data.types import At

WORD = re.compile(r"\w+|[^\w\s]")
SAMPLE: RowDict = {"text": "Ada lives in London.", "entities": [{"start": 0, "end": 3, "label": "person"}]}
BAD: RowDict = {"text": "Ada lives in London.", "entities": [{"start": 0, "end": 99, "label": "person"}]}

Span = tuple[int, int, str]


def matches(row: RowDict) -> bool:
    """Whether the row has entities."""
    return "entities" in row and "text" in row


def parse(row: RowDict, at: At) -> Tagged:
    """The text as words and punctuation marks, tagged BIO; a word that an entity cuts is two words."""
    (text,) = required_texts(row, at, "text")
    spans = sorted(every(required_list(row, at, "entities"), lambda i, item: _span(item, text, at, f"entities[{i}]")))
    for (_, stop, _), (start, _, _) in itertools.pairwise(spans):
        if start < stop:
            raise RowError("two entities overlap", where=str(at), why=f"at character {start}", fix="keep one of them")
    edges = {edge for start, stop, _ in spans for edge in (start, stop)}
    words: list[str] = []
    tags: list[str] = []
    for match in WORD.finditer(text):
        cuts = [match.start(), *sorted(e for e in edges if match.start() < e < match.end()), match.end()]
        for start, stop in itertools.pairwise(cuts):
            inside = next((span for span in spans if span[0] <= start and stop <= span[1]), None)
            first = inside is not None and not text[inside[0] : start].strip()
            words.append(text[start:stop])
            tags.append("O" if inside is None else f"{'B' if first else 'I'}-{inside[2]}")
    return Tagged(tuple(words), tuple(tags), at)


def _span(item: object, text: str, at: At, label: str) -> Span:
    if not isinstance(item, dict):
        raise RowError(f"`{label}` must be an object", where=str(at), why=f"it is {type_name(item)}")
    start, stop, name = item.get("start"), item.get("end"), item.get("label")
    if not isinstance(name, str) or not name.strip():
        raise RowError([wrong_type(item, at, "label", "text", f"{label}.label")])
    for key, value in (("start", start), ("end", stop)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise RowError([wrong_type(item, at, key, "a whole number", f"{label}.{key}")])
    assert isinstance(start, int)
    assert isinstance(stop, int)
    if not 0 <= start < stop <= len(text) or not text[start:stop].strip():
        why = f"it goes from {start} to {stop}, and the text has {len(text)} characters"
        raise RowError(f"`{label}` is no part of the text", where=str(at), why=why, fix="count characters from 0")
    return start, stop, name.strip()


FORMAT = Format("entities", frozenset({"text", "entities"}), matches, parse, SAMPLE, BAD, Tagged)
