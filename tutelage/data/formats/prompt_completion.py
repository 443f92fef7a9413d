"""Format `prompt_completion`: prompt and completion, each a text or a list of messages."""

from dataclasses import replace

from tutelage.data.formats.fields import wrong_type
from tutelage.data.formats.format import Format, RowDict, RowError
from tutelage.data.formats.toolcalls import read_tools
from tutelage.data.formats.turns import not_empty, read_turns
from tutelage.data.types import At, Conversation, Message, Role

SAMPLE: RowDict = {
    "prompt": [{"role": "user", "content": "What is the capital of Peru?"}],
    "completion": [{"role": "assistant", "content": "Lima."}],
}
BAD: RowDict = {"prompt": "What is the capital of Peru?", "completion": {"text": "Lima."}}


def matches(row: RowDict) -> bool:
    """Whether the row has a prompt and a completion."""
    return "prompt" in row and "completion" in row


def parse(row: RowDict, at: At) -> Conversation:
    """A conversation in which only the completion is trained: assistant turns of the prompt get the weight 0."""
    prompt = tuple(
        replace(message, weight=0.0) if message.role == "assistant" and message.weight is None else message
        for message in _side(row, at, "prompt", "user")
    )
    completion = _side(row, at, "completion", "assistant")
    if completion[0].role != "assistant":
        why = f"its first turn is a {completion[0].role} turn"
        raise RowError("`completion` must start with the assistant", where=str(at), why=why, fix="move it to `prompt`")
    return Conversation((*prompt, *completion), at, read_tools(row, at))


def _side(row: RowDict, at: At, name: str, role: Role) -> tuple[Message, ...]:
    value = row.get(name)
    if isinstance(value, str):
        return (Message(role, value),)
    if isinstance(value, list):
        return not_empty(read_turns(value, at, name), at, name)
    raise RowError([wrong_type(row, at, name, "text or a list of messages")])


FORMAT = Format("prompt_completion", frozenset({"prompt", "completion", "tools"}), matches, parse, SAMPLE, BAD)
