"""The verb `export`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.errors import UsageError
from tutelage.export.artifact import default_folder, export_model, parse_kind
from tutelage.export.task_artifact import export_task, has_task
from tutelage.export.types import ENCODER_KINDS
from tutelage.methods.opening import locate

ROWS_PER_PROMPT = 25  # a row that is labelled costs less than an answer that is written


def export(
    model: str,
    *,
    to: str = "merged",
    out: str | None = None,
    data: str | None = None,
    prompts: int = 20,
    max_tokens: int = 64,
    texts: int = 2000,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The finished artefact: `path`, `files`, and `parity`, the figures by which it was held to the trained model."""
    kind, precision = parse_kind(to)  # a wrong kind fails before a model is read
    for name, value in (("prompts", prompts), ("max_tokens", max_tokens)):
        if value < 1:
            raise UsageError(f"{name} must be 1 or more, and is {value}", where=name)
    say = say or (lambda line: None)
    located = locate(model, say=say)
    folder = Path(out) if out else default_folder(located, kind, precision)
    if kind in ENCODER_KINDS or has_task(located):
        rows = prompts * ROWS_PER_PROMPT
        return export_task(located, to, folder, rows=rows, texts=texts, say=say, data=data).as_json()
    made = export_model(located, to, folder, prompts=prompts, max_tokens=max_tokens, texts=texts, say=say, data=data)
    return made.as_json()
