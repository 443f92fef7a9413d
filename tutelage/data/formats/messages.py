"""Format `messages`: OpenAI's chat rows, with optional tools and per-turn weights."""

from tutelage.data.formats.fields import required_list
from tutelage.data.formats.format import Format, RowDict
from tutelage.data.formats.toolcalls import read_tools
from tutelage.data.formats.turns import not_empty, read_turns
from tutelage.data.types import At, Conversation

SAMPLE: RowDict = {
    "messages": [
        {"role": "developer", "content": "Answer in one sentence."},
        {"role": "user", "content": [{"type": "text", "text": "What is the weather in Oslo?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "assistant", "content": "It rains in Oslo.", "weight": 1},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
}
BAD: RowDict = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": None}]}


def matches(row: RowDict) -> bool:
    """Whether the row has messages."""
    return "messages" in row


def parse(row: RowDict, at: At) -> Conversation:
    """A conversation of the messages as they stand; the role `developer` becomes `system`."""
    turns = read_turns(required_list(row, at, "messages"), at, "messages")
    return Conversation(not_empty(turns, at, "messages"), at, read_tools(row, at))


FORMAT = Format("messages", frozenset({"messages", "tools"}), matches, parse, SAMPLE, BAD)
