"""A model with a task in the terminal: each line is a text, answered with its label, its entities or what the model writes."""

from collections.abc import Callable
from typing import Any

from tutelage.errors import DataError, UsageError
from tutelage.serve.classifying import ClassifyRequest
from tutelage.serve.marking import TagRequest
from tutelage.serve.rewriting import Seq2SeqRequest
from tutelage.serve.served_task import Worker
from tutelage.serve.task_shapes import MOST_CHARACTERS


def _label(item: dict[str, Any]) -> str:
    if not item["scores"]:
        return f"score {item['score']:.4g}"
    return ", ".join(f"{name} {item['scores'][name]:.1%}" for name in item["labels"]) or "no label holds"


def _entities(item: dict[str, Any]) -> str:
    return "\n".join(f"{e['label']}: {e['text']} ({e['score']:.1%})" for e in item["entities"]) or "no entity"


def _text(item: dict[str, Any]) -> str:
    cut = "" if item["finish_reason"] == "stop" else "\n(cut at the task's max_target_tokens)"
    return f"{item['text']}{cut}"


def _rows(request: Any, **more: Any) -> Callable[[str], Any]:
    return lambda text: request(model="", input=text, **more).rows()[0]


# By task: a line as a row of the task's route, and the route's item as a person reads it.
ASKED: dict[str, tuple[Callable[[str], Any], Callable[[dict[str, Any]], str]]] = {
    "classify": (_rows(ClassifyRequest, truncate=True), _label),
    "tag": (_rows(TagRequest), _entities),
    "seq2seq": (_rows(Seq2SeqRequest, truncate=True), _text),
}


def asker(task: str, name: str) -> Callable[[Worker, str], dict[str, Any]]:
    """A function from a worker and a text to what the task's route would answer, and to `answer`, the text for a person."""
    if task not in ASKED:
        raise UsageError(
            f"{name} is not asked line by line", where="model", why=f"the task {task} reads more than one text, or writes none",
            fix=f"tutelage serve {name}",
        )  # fmt: skip
    row, shown = ASKED[task]

    def ask(worker: Worker, text: str) -> dict[str, Any]:
        if not text.strip() or len(text) > MOST_CHARACTERS:
            raise DataError(f"the text has {len(text):,} characters", fix=f"1 to {MOST_CHARACTERS:,}")
        outcome = worker.compute([row(text)])[0]
        if outcome.item is None:
            raise DataError(f"the text {outcome.problem}")
        return {**outcome.item, "answer": shown(outcome.item)}

    return ask
