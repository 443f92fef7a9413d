"""What checks see of a row, whatever its format: the text that is given, the answer or label, the turns."""

from collections.abc import Callable
from dataclasses import dataclass

from tutelage.data.formats import FORMATS
from tutelage.data.formats.format import RowDict
from tutelage.data.types import At, Conversation

TEXT_KEYS = ("text", "sentence", "utterance", "content", "question", "review", "title")
LABEL_KEYS = ("label", "labels", "category", "intent", "class", "sentiment", "target_label")


@dataclass(frozen=True, slots=True)
class View:
    """A row as checks see it. `answer` is the text to learn, `label` a class; None where the row has none.

    `turns` are (role, text) of a conversation, empty for other rows; `prompt` is everything before the last answer.
    """

    format: str
    prompt: str
    answer: str | None = None
    label: str | None = None
    turns: tuple[tuple[str, str], ...] = ()

    @property
    def target(self) -> str:
        """The answer or the label, empty where there is neither."""
        return self.answer if self.answer is not None else (self.label or "")

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt, and the answer if there is one."""
        return (self.prompt,) if self.answer is None else (self.prompt, self.answer)


def view(row: RowDict, at: At, name: str | None = None) -> View:
    """The view of `row`, of the format `name` or the first one that claims it; RowError if it breaks that format."""
    known = name or next((each for each in FORMATS if FORMATS.get(each).matches(row)), None)
    if known:
        return of_conversation(FORMATS.get(known).parse(row, at), known)
    for shape, matches, read in SHAPES:
        if matches(row):
            return read(row, shape)
    return View("unknown", "\n".join(value for value in row.values() if isinstance(value, str)))


def of_conversation(conversation: Conversation, name: str) -> View:
    """The view of a conversation: the last assistant turn is the answer, all before it the prompt."""
    turns = tuple((message.role, message.content) for message in conversation.messages)
    last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=len(turns))
    answer = turns[last][1] if last < len(turns) else None
    return View(name, "\n".join(text for _, text in turns[:last]), answer, None, turns)


def _text(value: object) -> str:
    """A value as one text: lists are joined with spaces, null is empty."""
    if isinstance(value, list):
        return " ".join(_text(item) for item in value)
    return "" if value is None else str(value)


def _first(row: RowDict, keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if key in row), None)


def _tagged(row: RowDict, shape: str) -> View:
    tags = next(key for key in row if key.endswith(("tags", "labels")))
    return View(shape, _text(row["tokens"]), _text(row[tags]))


def _question(row: RowDict, shape: str) -> View:
    context = _text(row.get("context", row.get("choices")))
    answers = row.get("answers", row.get("answer"))
    if isinstance(answers, dict):
        answers = answers.get("text")
    if isinstance(answers, list):
        answers = next((item.get("text", "") if isinstance(item, dict) else item for item in answers), "")
    return View(shape, f"{_text(row['question'])}\n{context}".strip(), _text(answers))


def _labelled(row: RowDict, shape: str) -> View:
    text, label = _first(row, TEXT_KEYS), _first(row, LABEL_KEYS)
    value = row.get(label or "")
    return View(shape, _text(row.get(text or "")), None, None if value is None else _text(value))


def _pair(row: RowDict, shape: str) -> View:
    return View(shape, _text(row["source"]), _text(row["target"]))


def _plain(row: RowDict, shape: str) -> View:
    return View(shape, _text(row.get(_first(row, TEXT_KEYS) or "")))


Matches = Callable[[RowDict], bool]
SHAPES: tuple[tuple[str, Matches, Callable[[RowDict, str], View]], ...] = (
    ("tokens+tags", lambda row: "tokens" in row and any(k.endswith(("tags", "labels")) for k in row), _tagged),
    ("question+answer", lambda row: "question" in row and ("answer" in row or "answers" in row), _question),
    ("text+label", lambda row: bool(_first(row, TEXT_KEYS) and _first(row, LABEL_KEYS)), _labelled),
    ("source+target", lambda row: "source" in row and "target" in row, _pair),
    ("text", lambda row: bool(_first(row, TEXT_KEYS)), _plain),
)
