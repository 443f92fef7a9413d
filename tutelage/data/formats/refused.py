"""Shapes of rows that are known and not trained on, each with the reason."""

from collections.abc import Callable
from dataclasses import dataclass

from tutelage.data.formats.format import RowDict


@dataclass(frozen=True, slots=True)
class Refusal:
    """A known shape of rows that no format reads: what it is, why it is not read, what to do."""

    what: str
    why: str
    fix: str
    recognises: Callable[[RowDict], bool]


REFUSALS = (
    Refusal(
        "these are messages of OpenAssistant trees (OASST)",
        "one row is one message with its `parent_id`, not a conversation",
        "follow `parent_id` from each leaf to its root and write one `messages` row per path",
        lambda row: "message_id" in row and "parent_id" in row,
    ),
    Refusal(
        "these are nested self-instruct rows",
        "`instances` holds several inputs and outputs per instruction",
        "write one row per instance: instruction, input, output",
        lambda row: "instances" in row,
    ),
)
