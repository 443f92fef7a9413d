"""What checks see of a row, whatever its format: the text that is given, the answer or label, the turns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tutelage.data.formats import FORMATS
from tutelage.data.formats.format import RowDict
from tutelage.data.rows import Labelled, Pair, Preference, Question, Tagged
from tutelage.data.types import At, Conversation

LABELLED = "labelled"  # the format of a text with a label
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


KNOWN = tuple(FORMATS.get(name) for name in FORMATS)


def view(row: RowDict, at: At, name: str | None = None) -> View:
    """The view of `row`, of the format `name` or the first one that claims it; RowError if it breaks that format.

    A row whose label is still to be given is looked at all the same.
    """
    if name is None and _lacks_label(row):
        return _labelled(row, LABELLED)
    known = FORMATS.get(name) if name else next((each for each in KNOWN if each.matches(row)), None)
    if known:
        parsed = known.parse(row, at)
        if isinstance(parsed, Conversation):
            return of_conversation(parsed, known.name)
        return VIEWS.get(type(parsed), _of_other)(parsed, known.name)
    for shape, matches, read in SHAPES:
        if matches(row):
            return read(row, shape)
    return View("unknown", "\n".join(value for value in row.values() if isinstance(value, str)))


def _lacks_label(row: RowDict) -> bool:
    label = _first(row, LABEL_KEYS)
    return label is not None and row[label] in (None, "") and _first(row, TEXT_KEYS) is not None


def _of_labelled(row: Any, name: str) -> View:
    label = " + ".join(sorted(row.labels)) if row.score is None else str(row.score)
    return View(name, "\n".join(row.asked()), None, label)


def _of_tagged(row: Any, name: str) -> View:
    return View(name, " ".join(row.words), " ".join(row.tags))


def _of_question(row: Any, name: str) -> View:
    return View(name, f"{row.question}\n{row.context}", row.answers[0][0] if row.answers else "")


def _of_pair(row: Any, name: str) -> View:
    return View(name, row.source, row.targets[0] if row.targets else "")


def _of_preference(row: Any, name: str) -> View:
    return View(name, row.prompt, row.better)


def _of_other(row: Any, name: str) -> View:
    return View(name, "\n".join(row.asked()))


VIEWS: dict[type, Callable[[Any, str], View]] = {
    Labelled: _of_labelled, Tagged: _of_tagged, Question: _of_question, Pair: _of_pair, Preference: _of_preference,
}  # fmt: skip


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
    ("question+answer", lambda row: "question" in row and ("answer" in row or "answers" in row), _question),
    (LABELLED, lambda row: bool(_first(row, TEXT_KEYS) and _first(row, LABEL_KEYS)), _labelled),
    ("source+target", lambda row: "source" in row and "target" in row, _pair),
    ("text", lambda row: bool(_first(row, TEXT_KEYS)), _plain),
)
