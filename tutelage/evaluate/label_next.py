"""Which unlabelled rows to label next: those of which the model is least sure, without taking the same text twice."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.data.formats.entities import WORD
from tutelage.data.rows import Labelled, Question, Tagged
from tutelage.data.sources import files, read
from tutelage.data.types import At
from tutelage.errors import DataError, Problem
from tutelage.metrics import Prediction

LABEL_NEXT = "label-next.jsonl"


@dataclass(frozen=True)
class Uncertain:
    """One row, with how unsure the model is of it: 0 is certain, 1 as unsure as can be (of words or a text: nats for each;
    of an answer that it finds in a context: 1 - its probability among all spans)."""

    prediction: Prediction
    uncertainty: float


def label_next(rows: Iterable[Uncertain]) -> list[Uncertain]:
    """The rows by falling uncertainty; a text that occurs again keeps its first row only."""
    seen: set[str] = set()
    found = []
    for one in rows:
        key = " ".join(one.prediction.input.split()).lower()
        if key not in seen:
            seen.add(key)
            found.append(one)
    return sorted(found, key=lambda item: (-item.uncertainty, item.prediction.at))


def unlabelled(data: str, task: str) -> dict[At, dict[str, object]]:
    """The rows without labels, by their places. All problems at once.

    `classify` wants a `text`, and perhaps a `text_pair`; `tag` a `text`, which gets a list of `tokens`, or that list;
    `extract` a `question` and its `context`.
    """
    found: dict[At, dict[str, object]] = {}
    problems: list[Problem] = []
    missing, fix = MISSING[task]
    for item in (item for file in files(data) for item in read(file)):
        if isinstance(item, Problem):
            problems.append(item)
            continue
        at, row = item
        if lack := missing(row):
            problems.append(Problem(lack, str(at), fix=fix))
        else:
            found[at] = {**row, "tokens": _tokens(row)} if task == "tag" else row
    if problems:
        raise DataError(problems)
    return found


def _missing_text(row: Mapping[str, object]) -> str:
    if isinstance(row.get("text"), str) and isinstance(row.get("text_pair", ""), str):
        return ""
    return "this row has no `text`" if "text" not in row else "`text` or `text_pair` is no text"


def _missing_words(row: Mapping[str, object]) -> str:
    return "" if _tokens(row) else "this row has no words"


def _missing_question(row: Mapping[str, object]) -> str:
    values = {name: row.get(name) for name in ("question", "context")}
    blank = [f"`{name}`" for name, value in values.items() if not isinstance(value, str) or not value.strip()]
    return f"this row has no {' and no '.join(blank)}" if blank else ""


Lack = Callable[[Mapping[str, object]], str]
MISSING: dict[str, tuple[Lack, str]] = {  # for each task: what a row lacks, or nothing; and how to mend it
    "classify": (_missing_text, "write the text to label as `text`"),
    "tag": (_missing_words, "write them as `text`, or as a list `tokens`"),
    "extract": (_missing_question, "write a `question` and the `context` to find its answer in"),
}


def as_labelled(rows: Mapping[At, Mapping[str, object]], placeholder: tuple[str, ...]) -> tuple[Labelled, ...]:
    """`placeholder` stands where the task wants a label; no probability depends on it."""
    return tuple(
        Labelled(str(row["text"]), at, placeholder, second=str(row["text_pair"]) if "text_pair" in row else None)
        for at, row in rows.items()
    )


def as_tagged(rows: Mapping[At, Mapping[str, object]]) -> list[Tagged]:
    """The rows of `unlabelled` to tag; every tag is outside, and no probability depends on it."""
    found = ((at, tuple(_tokens(row))) for at, row in rows.items())
    return [Tagged(words, ("O",) * len(words), at) for at, words in found]


def as_questions(rows: Mapping[At, Mapping[str, object]]) -> list[Question]:
    """Questions without an answer."""
    return [Question(str(row["context"]), str(row["question"]), at) for at, row in rows.items()]


def uncertainty(prediction: Prediction) -> float:
    """Entropy of the label probabilities over that of no idea (Settles 2009, section 3.1), or the loss of the own answer.

    Probabilities that do not sum to 1 are those of several labels: then the mean of the labels' own entropies.
    """
    p = list(prediction.scores.values())
    if len(p) > 1 and abs(sum(p) - 1) < 1e-2:
        return sum(map(_part, p)) / math.log(len(p))
    if p:
        return sum((_part(one) + _part(1 - one)) / math.log(2) for one in p) / len(p)
    if prediction.likelihood is not None:
        return prediction.likelihood.nats / max(1.0, prediction.likelihood.tokens)
    raise DataError(
        "nothing says how sure the model is of this row", where=str(prediction.at),
        fix="use a task with probabilities (classify, tag), or predictions with the likelihood of the own answer",
    )  # fmt: skip


def as_rows(items: Sequence[Uncertain], rows: Mapping[At, Mapping[str, object]]) -> list[dict[str, Any]]:
    """Lines for a file to label in: the row as it was, the model's guess, its uncertainty, and where the row stands."""
    return [
        {**rows[item.prediction.at], "guess": item.prediction.output, "uncertainty": round(item.uncertainty, 4),
         "file": item.prediction.at.source, "row": item.prediction.at.row}
        for item in items
    ]  # fmt: skip


def unsure_of_tags(chances: Sequence[float]) -> float:
    """Nats per word of the likeliest tags: 0 where every word is certain (Shen et al. 2018, arXiv 1707.05928 §4, MNLP)."""
    return -sum(math.log(max(chance, 1e-12)) for chance in chances) / max(1, len(chances))


def _tokens(row: Mapping[str, object]) -> list[str]:
    """The words of a row to tag: its `tokens`, else those and the punctuation marks of its `text`."""
    tokens, text = row.get("tokens"), row.get("text")
    if isinstance(tokens, list) and all(isinstance(word, str) and word.strip() for word in tokens):
        return tokens
    return WORD.findall(text) if tokens is None and isinstance(text, str) else []


def _part(p: float) -> float:
    return 0.0 if p <= 0 else -p * math.log(min(p, 1.0))
