"""Format `gpt4all`: prompt, response; optionally a source."""

from tutelage.data.formats.fields import required_texts
from tutelage.data.formats.format import Format, RowDict
from tutelage.data.types import At, Conversation, Message

SAMPLE: RowDict = {"prompt": "Name a prime number.", "response": "Seven.", "source": "written by hand"}
BAD: RowDict = {"prompt": "Name a prime number.", "response": 7}


def matches(row: RowDict) -> bool:
    """Whether the row has a prompt and a response."""
    return "prompt" in row and "response" in row


def parse(row: RowDict, at: At) -> Conversation:
    """A conversation of the prompt and the response."""
    prompt, response = required_texts(row, at, "prompt", "response")
    return Conversation((Message("user", prompt), Message("assistant", response)), at)


FORMAT = Format("gpt4all", frozenset({"prompt", "response"}), matches, parse, SAMPLE, BAD)
