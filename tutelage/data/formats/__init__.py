"""The data formats, by name. A new one is one file here and one line below."""

from tutelage.data.formats import alpaca, dolly, gpt4all, messages, prompt_completion, sharegpt
from tutelage.data.formats.format import Format, RowError
from tutelage.registry import Registry

FORMATS: Registry[Format] = Registry("format")
for _format in (
    alpaca.FORMAT,
    dolly.FORMAT,
    gpt4all.FORMAT,
    messages.FORMAT,
    prompt_completion.FORMAT,
    sharegpt.FORMAT,
):
    FORMATS.add(_format.name)(_format)

__all__ = ["FORMATS", "Format", "RowError"]
