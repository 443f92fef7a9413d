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


def _tagged(row: RowDict) -> bool:
    return "tokens" in row and any(key.endswith(("tags", "labels")) for key in row)


def _labelled(row: RowDict) -> bool:
    return any(key in row for key in ("text", "sentence")) and any(
        key in row for key in ("label", "labels", "category", "intent", "class")
    )


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
    Refusal(
        "these are tokens with tags (CoNLL, named entities)",
        "a row has a tag per token, and no answer to learn",
        "write rows of `prompt` and `response`, with the entities in the response",
        _tagged,
    ),
    Refusal(
        "these are SQuAD rows",
        "answers are spans of a context (`answers`, `answer_start`), not texts to learn",
        "write rows of `instruction` (the question), `context` and `response` (the answer)",
        lambda row: "paragraphs" in row or ("context" in row and "question" in row and "answers" in row),
    ),
    Refusal(
        "these are pairs of a chosen and a rejected answer",
        "preferences are another kind of training; here one answer per row is learnt",
        "write rows of `prompt` and `response`, with the chosen answer",
        lambda row: "chosen" in row and "rejected" in row,
    ),
    Refusal(
        "these are texts with a label",
        "a label is a class, and no answer to learn",
        "write rows of `prompt` (the text) and `response` (the label in words)",
        _labelled,
    ),
    Refusal(
        "these are plain texts",
        "there is no prompt and no answer in a row, only `text`",
        "write rows of `prompt` and `response`, or of `messages`",
        lambda row: "text" in row,
    ),
)
