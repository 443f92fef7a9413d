"""Format `preference`: a chosen and a rejected text, optionally with the prompt of both."""

from tutelage.data.formats.fields import optional_text, required_texts
from tutelage.data.formats.format import Format, RowDict
from tutelage.data.rows import Preference
from tutelage.data.types import At

SAMPLE: RowDict = {"prompt": "Thank me.", "chosen": "Thank you very much.", "rejected": "Whatever."}
BAD: RowDict = {"prompt": "Thank me.", "chosen": "Thank you.", "rejected": None}


def matches(row: RowDict) -> bool:
    """Whether the row has a chosen and a rejected text."""
    return "chosen" in row and "rejected" in row


def parse(row: RowDict, at: At) -> Preference:
    """The two texts and their prompt."""
    better, worse = required_texts(row, at, "chosen", "rejected")
    return Preference(better, worse, at, optional_text(row, at, "prompt"))


FORMAT = Format("preference", frozenset({"prompt", "chosen", "rejected"}), matches, parse, SAMPLE, BAD, Preference)
