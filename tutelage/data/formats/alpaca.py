"""Format `alpaca`: instruction, input, output; optionally a system prompt and a history of earlier turns."""

from tutelage.data.formats.fields import every, join, optional_list, optional_text, required_texts
from tutelage.data.formats.format import Format, RowDict, RowError
from tutelage.data.types import At, Conversation, Message

SAMPLE: RowDict = {
    "instruction": "Translate into German.",
    "input": "Good morning",
    "output": "Guten Morgen",
    "system": "You translate.",
    "history": [["Say hello.", "Hello!"]],
}
BAD: RowDict = {"instruction": "Translate into German.", "input": "Good morning", "output": None}


def matches(row: RowDict) -> bool:
    """Whether the row has an instruction and an output."""
    return "instruction" in row and "output" in row


def parse(row: RowDict, at: At) -> Conversation:
    """A conversation of the system prompt, the history and the instruction with its output."""
    instruction, output = required_texts(row, at, "instruction", "output")
    context = optional_text(row, at, "input")
    system = optional_text(row, at, "system")
    pairs = every(optional_list(row, at, "history"), lambda index, item: _pair(item, at, index))
    return Conversation(
        (
            *((Message("system", system),) if system.strip() else ()),
            *(message for pair in pairs for message in pair),
            Message("user", join(instruction, context)),
            Message("assistant", output),
        ),
        at,
    )


def _pair(item: object, at: At, index: int) -> tuple[Message, Message]:
    if isinstance(item, list) and len(item) == 2 and all(isinstance(text, str) for text in item):
        return Message("user", item[0]), Message("assistant", item[1])
    what = f"`history[{index}]` must be a pair of texts"
    raise RowError(what, where=str(at), fix='[["earlier instruction", "earlier output"]]')


FORMAT = Format(
    "alpaca", frozenset({"instruction", "input", "output", "system", "history"}), matches, parse, SAMPLE, BAD
)
