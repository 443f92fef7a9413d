"""Format `squad`: a question on a context, with answers that stand in it. Nested files are flattened when read."""

from tutelage.data.formats.fields import every, optional_text, required_texts, wrong_type
from tutelage.data.formats.format import Format, RowDict, RowError
from tutelage.data.jsonvalue import type_name
from tutelage.data.rows import Question
from tutelage.data.types import At

SAMPLE: RowDict = {
    "id": "q1",
    "context": "The bridge was built in 1890.",
    "question": "When was the bridge built?",
    "answers": {"text": ["1890"], "answer_start": [24]},
}
BAD: RowDict = {"context": "The bridge was built in 1890.", "question": "When?", "answers": "1890"}


def matches(row: RowDict) -> bool:
    """Whether the row has a context, a question and answers."""
    return "context" in row and "question" in row and ("answers" in row or "is_impossible" in row)


def parse(row: RowDict, at: At) -> Question:
    """The question; where `is_impossible` is true it has no answer."""
    context, question = required_texts(row, at, "context", "question")
    answers = () if row.get("is_impossible") is True else _answers(row, at)
    return Question(context, question, at, answers, optional_text(row, at, "id"))


def _answers(row: RowDict, at: At) -> tuple[tuple[str, int], ...]:
    value = row.get("answers")
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            why = "`text` and `answer_start` must be lists of one length"
            raise RowError("`answers` cannot be read", where=str(at), why=why, fix=f"{SAMPLE['answers']}")
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts)]
    if not isinstance(value, list):
        raise RowError([wrong_type(row, at, "answers", "a list")])
    return every(value, lambda index, item: _answer(item, at, f"answers[{index}]"))


def _answer(item: object, at: At, label: str) -> tuple[str, int]:
    if not isinstance(item, dict):
        raise RowError(f"`{label}` must be an object", where=str(at), why=f"it is {type_name(item)}")
    text, start = item.get("text"), item.get("answer_start")
    if not isinstance(text, str):
        raise RowError([wrong_type(item, at, "text", "text", f"{label}.text")])
    if not isinstance(start, int) or isinstance(start, bool):
        raise RowError([wrong_type(item, at, "answer_start", "a whole number", f"{label}.answer_start")])
    return text, start


FORMAT = Format(
    "squad", frozenset({"id", "context", "question", "answers", "is_impossible"}), matches, parse, SAMPLE, BAD, Question
)
