"""Format `tagged`: words with a tag each, as CoNLL files and their JSON forms hold them."""

from tutelage.data.formats.fields import every, required_list, wrong_type
from tutelage.data.formats.format import Format, RowDict, RowError
from tutelage.data.jsonvalue import type_name
from tutelage.data.rows import Tagged
from tutelage.data.types import At

WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels")

SAMPLE: RowDict = {"tokens": ["Ada", "lives", "in", "London"], "tags": ["B-person", "O", "O", "B-place"]}
BAD: RowDict = {"tokens": ["Ada", "lives"], "tags": ["B-person", None]}


def matches(row: RowDict) -> bool:
    """Whether the row has words and tags."""
    return any(name in row for name in WORDS) and any(name in row for name in TAGS)


def parse(row: RowDict, at: At) -> Tagged:
    """Words and tags in order; whether they are equally many is checked with the row."""
    words, tags = (next((n for n in names if n in row), names[0]) for names in (WORDS, TAGS))
    return Tagged(
        every(required_list(row, at, words), lambda i, item: _text(item, at, f"{words}[{i}]")),
        every(required_list(row, at, tags), lambda i, item: _text(item, at, f"{tags}[{i}]")),
        at,
    )


def _text(value: object, at: At, label: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):  # an index into the recipe's task.labels
        return str(value)
    raise (
        RowError([wrong_type({label: value}, at, label, "text")])
        if value is not None
        else RowError(
            f"`{label}` must be text",
            where=str(at),
            why=f"it is {type_name(value)}",
            fix="write `O` where there is no entity",
        )
    )


FORMAT = Format("tagged", frozenset({*WORDS, *TAGS}), matches, parse, SAMPLE, BAD, Tagged)
