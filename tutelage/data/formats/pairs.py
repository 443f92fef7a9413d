"""Format `pairs`: a source text and the target text to write for it, or several references."""

from tutelage.data.formats.fields import every, required_texts, wrong_type
from tutelage.data.formats.format import Format, RowDict, RowError
from tutelage.data.jsonvalue import type_name
from tutelage.data.rows import Pair
from tutelage.data.types import At

KEYS = (
    ("source", "target"),
    ("source", "targets"),
    ("document", "summary"),
    ("article", "highlights"),
    ("text", "summary"),
)

SAMPLE: RowDict = {"source": "Good morning", "target": "Guten Morgen"}
BAD: RowDict = {"source": "Good morning", "target": 7}


def matches(row: RowDict) -> bool:
    """Whether the row has a source and a target under one of their usual names."""
    return any(source in row and target in row for source, target in KEYS)


def parse(row: RowDict, at: At) -> Pair:
    """Source and targets; a list of sentences as source is joined, a list as target is several references."""
    source, target = next(((s, t) for s, t in KEYS if s in row and t in row), KEYS[0])
    value = row.get(source)
    text = " ".join(_texts(value, at, source)) if isinstance(value, list) else required_texts(row, at, source)[0]
    given = row.get(target)
    if isinstance(given, list):
        return Pair(text, _texts(given, at, target), at)
    if not isinstance(given, str):
        raise RowError([wrong_type(row, at, target, "text")])
    return Pair(text, (given,), at)


def _texts(items: list[object], at: At, label: str) -> tuple[str, ...]:
    return every(items, lambda index, item: _text(item, at, f"{label}[{index}]"))


def _text(item: object, at: At, label: str) -> str:
    if isinstance(item, str):
        return item
    raise RowError(f"`{label}` must be text", where=str(at), why=f"it is {type_name(item)}", fix="make it text")


FORMAT = Format("pairs", frozenset({name for keys in KEYS for name in keys}), matches, parse, SAMPLE, BAD, Pair)
