"""What a data format is, and the error that a row which breaks it raises."""

from collections.abc import Callable
from dataclasses import dataclass

from tutelage.data.types import At, Conversation, Row
from tutelage.errors import DataError

RowDict = dict[str, object]

# Keys of rows that have a prompt and an answer: beside them a text, a label or a score is metadata.
ANSWERED = frozenset({"prompt", "completion", "response", "instruction", "output", "messages", "conversations"})


class RowError(DataError):
    """A row that does not keep to its format; `problems` names every fault found in it."""


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of rows. `matches` looks at keys only, so that a row with a wrong value is parsed and reported.

    `fields` are the keys that `parse` reads. `sample` must parse; `bad` must raise RowError.
    """

    name: str
    fields: frozenset[str]
    matches: Callable[[RowDict], bool]
    parse: Callable[[RowDict, At], Row]
    sample: RowDict
    bad: RowDict
    kind: type = Conversation  # what `parse` returns
