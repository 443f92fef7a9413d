"""Format `labelled`: a text, or two, with a label, a list of labels, or a score."""

from tutelage.data.formats.fields import every, required_texts, wrong_type
from tutelage.data.formats.format import ANSWERED, Format, RowDict, RowError
from tutelage.data.jsonvalue import shown, type_name
from tutelage.data.rows import Labelled
from tutelage.data.types import At

TEXTS = ("text", "sentence", "sentence1", "premise")
SECONDS = ("text_pair", "text2", "sentence2", "hypothesis")
LABELS = ("label", "labels", "category", "intent", "class")

SAMPLE: RowDict = {"text": "The parcel never came.", "text_pair": "Where is it?", "label": "complaint"}
BAD: RowDict = {"text": "The parcel never came.", "label": {"name": "complaint"}}


def matches(row: RowDict) -> bool:
    """Whether the row has a text and a label or score, and nothing that says more."""
    if ANSWERED & row.keys() or {"summary", "entities"} & row.keys():
        return False
    return _first(row, TEXTS) is not None and (_first(row, LABELS) is not None or "score" in row)


def parse(row: RowDict, at: At) -> Labelled:
    """The text and its labels; numbers as labels become text."""
    name = _first(row, TEXTS) or "text"
    key = _first(row, LABELS)
    (text,) = required_texts(row, at, name)
    other = _first(row, SECONDS)
    second = required_texts(row, at, other)[0] if other else None
    if key is None:
        score = _number(row.get("score"))
        if score is None:
            raise RowError([wrong_type(row, at, "score", "a number")])
        return Labelled(text, at, score=score, second=second)
    value = row[key]
    several = isinstance(value, list)
    items = value if isinstance(value, list) else [value]
    labels = every(items, lambda index, item: _label(item, at, f"{key}[{index}]" if several else key))
    return Labelled(text, at, labels, second=second, several=several)


def _first(row: RowDict, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _label(value: object, at: At, label: str) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int | float | bool):
        return str(value).lower() if isinstance(value, bool) else str(value)
    why = f"it is {type_name(value)}" + (f": {shown(value)}" if value is not None else "")
    raise RowError(f"`{label}` must be a label", where=str(at), why=why, fix="write its name, or remove the row")


FORMAT = Format("labelled", frozenset({*TEXTS, *SECONDS, *LABELS, "score"}), matches, parse, SAMPLE, BAD, Labelled)
