"""The data formats, by name. A new one is one file here and one line below."""

from tutelage.data.formats import (
    alpaca,
    dolly,
    entities,
    gpt4all,
    labelled,
    messages,
    pairs,
    plain,
    preference,
    prompt_completion,
    sharegpt,
    squad,
    tagged,
)  # fmt: skip
from tutelage.data.formats.format import Format, RowError
from tutelage.registry import Registry

FORMATS: Registry[Format] = Registry("format")
for _format in (
    alpaca.FORMAT,
    dolly.FORMAT,
    entities.FORMAT,
    gpt4all.FORMAT,
    labelled.FORMAT,
    messages.FORMAT,
    pairs.FORMAT,
    plain.FORMAT,
    preference.FORMAT,
    prompt_completion.FORMAT,
    sharegpt.FORMAT,
    squad.FORMAT,
    tagged.FORMAT,
):
    FORMATS.add(_format.name)(_format)

__all__ = ["FORMATS", "Format", "RowError"]
