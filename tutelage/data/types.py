"""The values that labelled text becomes: rows with their place, conversations, drops, the prepared data set."""

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from tutelage.errors import Problem
from tutelage.recipe import SourceSpec

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, order=True)
class At:
    """Where a row stands: `row` is the 1-based line (JSONL, CSV) or item (JSON list) of the file `source`."""

    source: str
    row: int

    def __str__(self) -> str:
        return f"{self.source}:{self.row}"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `weight` scales the loss of an assistant turn (OpenAI's `weight`); None means the task's default."""

    role: Role
    content: str
    weight: float | None = None
    name: str | None = None
    tool_calls: tuple[dict[str, object], ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat example: its messages in order, the tools it may call, and the row it came from."""

    messages: tuple[Message, ...]
    at: At
    tools: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not used, and why. `reason` is a short snake_case word that counts are grouped by."""

    reason: str
    at: At
    detail: str = ""


@runtime_checkable
class LabelledRow(Protocol):
    """What data preparation must know of a row that is no conversation."""

    @property
    def at(self) -> At:
        """Where it stands."""
        ...

    def asked(self) -> list[str]:
        """The texts that make up the input."""
        ...

    def content(self) -> list[object]:
        """Everything in the row but its place, writable as JSON."""
        ...

    def problems(self) -> list[Problem]:
        """What is wrong with it."""
        ...

    def drop(self) -> Dropped | None:
        """Why there is nothing to learn from it."""
        ...


Row = Conversation | LabelledRow


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a recipe's data became. `fingerprint` is a sha256 over the splits' content in order."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    dropped: tuple[Dropped, ...]
    formats: dict[str, str]  # file → detected or given format name
    fingerprint: str
    sources: dict[str, SourceSpec] = field(default_factory=dict)  # file → its part of the recipe
    overlap: dict[str, int] = field(default_factory=dict)  # given split file kind → rows that also occur in training

    def counts(self) -> dict[str, int]:
        """Rows per split."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}
