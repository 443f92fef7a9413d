"""The split of conversations by a hash of their prompts, so that repeats never straddle it."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence

from tutelage.data.types import Conversation, Message, Row

HASH_BYTES = 8


def split(conversations: Sequence[Row], share: float, *, seed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """(training, validation): a conversation is held out iff the hash of its prompt, from 0 to 1, is below `share`.

    So equal prompts stay together and adding rows never moves others. The exception is a data set so small that one
    side would be empty though there are two different prompts: then the prompt with the smallest hash is held out
    (validation was empty), or the one with the largest hash is trained on (training was empty). A single prompt is
    always trained on.
    """
    if share <= 0:
        return tuple(conversations), ()
    points = [prompt_hash(conversation, seed) for conversation in conversations]
    limit = int(share * 256**HASH_BYTES)
    different = set(points)
    held = {point for point in different if point < limit}
    if held == different:
        held -= {max(points, default=0)}
    elif not held and len(different) > 1:
        held = {min(different)}
    pairs = list(zip(conversations, points))
    return tuple(c for c, point in pairs if point not in held), tuple(c for c, point in pairs if point in held)


def prompt_hash(row: Row, seed: int) -> int:
    """A number below 256**8 that depends on the seed and the normalised prompt (or other input) only."""
    text = json.dumps(input_key(row))
    digest = hashlib.blake2b(f"{seed}\n{text}".encode(), digest_size=HASH_BYTES).digest()
    return int.from_bytes(digest, "big")


def input_key(row: Row) -> list[object]:
    """The normalised input of a row: equal for rows that ask the same."""
    if isinstance(row, Conversation):
        return list(normalised(prompt(row)))
    return [_folded(text) for text in row.asked()]


def prompt(conversation: Conversation) -> tuple[Message, ...]:
    """The turns before the assistant's first; a greeting that opens the conversation counts as part of the prompt."""
    messages = conversation.messages
    for index, message in enumerate(messages):
        if message.role == "assistant" and any(earlier.role != "assistant" for earlier in messages[:index]):
            return messages[:index]
    return messages


def normalised(messages: Sequence[Message]) -> list[list[object]]:
    """Roles, texts and tool calls, with Unicode forms, case and white space folded."""
    return [[message.role, _folded(message.content), list(message.tool_calls)] for message in messages]


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())
