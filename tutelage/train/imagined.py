"""Rows of the greatest length for a recipe whose data are not here yet: an estimate then holds for the longest that may come."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.recipe import DataSpec, Recipe

WORD = "water "
Row = dict[str, Any]


def _labels(recipe: Recipe) -> list[str]:
    return list(getattr(recipe.task, "labels", None) or ("first", "second"))


def _classify(recipe: Recipe, text: str, number: int) -> Row:
    if getattr(recipe.task, "num_labels", None) == 1:
        return {"text": text, "score": float(number)}
    labels = _labels(recipe)
    return {"text": text, "label": labels[number % len(labels)]}


def _tag(recipe: Recipe, text: str, number: int) -> Row:
    words = text.split()
    labels = _labels(recipe) if getattr(recipe.task, "labels", None) else ["O", "B-thing"]
    return {"tokens": words, "tags": [labels[i % len(labels)] for i in range(len(words))]}


def _extract(recipe: Recipe, text: str, number: int) -> Row:
    answers = {"text": ["water"], "answer_start": [text.index("water")]}
    return {"id": str(number), "context": text, "question": "What?", "answers": answers}


# By task: one row of the text, which is longer than the limit.
ROWS: dict[str, Callable[[Recipe, str, int], Row]] = {
    "chat": lambda recipe, text, number: {"prompt": f"{number}", "response": text},
    "classify": _classify,
    "tag": _tag,
    "extract": _extract,
    "seq2seq": lambda recipe, text, number: {"source": text, "target": text},
    "text": lambda recipe, text, number: {"text": text},
}


def missing_data(recipe: Recipe) -> bool:
    """Whether none of the recipe's training files is here."""
    files = [Path(source.path) for source in recipe.data.train]
    prepared = recipe.data.prepared
    return not recipe.data.rows and not any(f.exists() for f in files) and not (prepared and Path(prepared).exists())


def imagined(recipe: Recipe) -> Recipe:
    """The recipe with a step's worth of rows that fill `max_tokens`."""
    make = ROWS[recipe.task.kind]
    rows = tuple(
        make(recipe, f"{number} " + WORD * recipe.max_tokens, number) for number in range(recipe.optim.batch_size)
    )
    return recipe.model_copy(update={"data": DataSpec(train=[], rows=rows), "over_length": "truncate"})
