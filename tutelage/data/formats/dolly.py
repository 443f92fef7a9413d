"""Format `dolly`: instruction, response; optionally a context and a category."""

from tutelage.data.formats.fields import join, optional_text, required_texts
from tutelage.data.formats.format import Format, RowDict
from tutelage.data.types import At, Conversation, Message

SAMPLE: RowDict = {
    "instruction": "When was the bridge built?",
    "context": "The bridge was built in 1890.",
    "response": "In 1890.",
    "category": "closed_qa",
}
BAD: RowDict = {"instruction": "When was the bridge built?", "context": ["a", "list"], "response": "In 1890."}


def matches(row: RowDict) -> bool:
    """Whether the row has an instruction and a response."""
    return "instruction" in row and "response" in row


def parse(row: RowDict, at: At) -> Conversation:
    """A conversation of the instruction with its context, and the response."""
    instruction, response = required_texts(row, at, "instruction", "response")
    prompt = join(instruction, optional_text(row, at, "context"))
    return Conversation((Message("user", prompt), Message("assistant", response)), at)


FORMAT = Format("dolly", frozenset({"instruction", "context", "response"}), matches, parse, SAMPLE, BAD)
