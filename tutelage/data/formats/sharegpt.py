"""Format `sharegpt`: conversations of `from` and `value`, with optional tools and a system prompt beside them."""

from tutelage.data.formats.fields import every, optional_text, required_list, wrong_type
from tutelage.data.formats.format import Format, RowDict, RowError
from tutelage.data.formats.toolcalls import parse_calls, read_tools
from tutelage.data.formats.turns import WEIGHTS, as_turn, check_keys, not_empty, read_weight, unknown_role
from tutelage.data.types import At, Conversation, Message, Role

ROLES: dict[str, Role] = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "function_call": "assistant", "observation": "tool", "tool": "tool",
}  # fmt: skip
FIELDS = ("from", "value", *WEIGHTS)

SAMPLE: RowDict = {
    "conversations": [
        {"from": "human", "value": "What is 6 times 7?"},
        {"from": "function_call", "value": '{"name": "multiply", "arguments": {"a": 6, "b": 7}}'},
        {"from": "observation", "value": "42"},
        {"from": "gpt", "value": "6 times 7 is 42.", "train": True},
    ],
    "tools": '[{"name": "multiply", "parameters": {"type": "object"}}]',
    "system": "You calculate.",
}
BAD: RowDict = {"conversations": [{"from": "human", "value": "Hello"}, {"from": "parrot", "value": "Hello"}]}


def matches(row: RowDict) -> bool:
    """Whether the row has conversations."""
    return "conversations" in row


def parse(row: RowDict, at: At) -> Conversation:
    """A conversation of the turns in order; a function call becomes an assistant turn with tool calls."""
    items = required_list(row, at, "conversations")
    turns = not_empty(every(items, lambda i, item: _turn(item, at, f"conversations[{i}]")), at, "conversations")
    system = optional_text(row, at, "system")
    first = (Message("system", system),) if system.strip() else ()
    return Conversation((*first, *turns), at, read_tools(row, at))


def _turn(item: object, at: At, label: str) -> Message:
    turn = as_turn(item, at, label)
    if "from" not in turn:
        fix = "rows of `role` and `content` belong under `messages`" if "role" in turn else "add `from`"
        raise RowError(f"`{label}.from` is missing", where=str(at), fix=fix)
    check_keys(turn, at, label, FIELDS)
    speaker, value = turn["from"], turn.get("value")
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise unknown_role(speaker, at, f"{label}.from", list(ROLES), None)
    if not isinstance(value, str):
        raise RowError([wrong_type(turn, at, "value", "text", f"{label}.value")])
    weight = read_weight(turn, role, at, label)
    if speaker == "function_call":
        return Message(role, "", weight, tool_calls=parse_calls(value, at, f"{label}.value"))
    return Message(role, value, weight)


FORMAT = Format("sharegpt", frozenset({"conversations", "tools", "system"}), matches, parse, SAMPLE, BAD)
