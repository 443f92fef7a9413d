"""Format `plain`: a text and nothing to learn beside it."""

from tutelage.data.formats import labelled
from tutelage.data.formats.fields import required_texts
from tutelage.data.formats.format import ANSWERED, Format, RowDict
from tutelage.data.rows import Plain
from tutelage.data.types import At

SAMPLE: RowDict = {"text": "Rain fell on the harbour all night."}
BAD: RowDict = {"text": ["Rain fell."]}


def matches(row: RowDict) -> bool:
    """Whether the row has a text, and nothing that another format would read."""
    claimed = ANSWERED | {"summary", "entities", "message_id", "tokens"}
    return "text" in row and not claimed & row.keys() and not labelled.matches(row)


def parse(row: RowDict, at: At) -> Plain:
    """The text as it stands."""
    return Plain(required_texts(row, at, "text")[0], at)


FORMAT = Format("plain", frozenset({"text"}), matches, parse, SAMPLE, BAD, Plain)
