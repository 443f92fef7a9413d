"""Columns, pairs and numbers as a reader of a terminal wants them."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> Iterator[str]:
    """The rows in columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()


def pairs(values: Mapping[str, Any]) -> Iterator[str]:
    """One `key  value` line per entry that has a value; nested mappings are indented."""
    width = max((len(key) for key in values), default=0)
    for key, value in values.items():
        name = key.replace("_", " ").ljust(width)
        if isinstance(value, Mapping):
            yield name.rstrip()
            yield from (f"  {line}" for line in pairs(value))
        elif isinstance(value, list):
            yield f"{name}  {', '.join(str(item) for item in value) or '-'}"
        elif value is not None:
            yield f"{name}  {number(value)}"


def number(value: Any) -> str:
    """A number as people write it: 134,515,008 and 0.0002 and 1.2346."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def size(count: float | None) -> str:
    """A number of bytes with its unit."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def loss(before: float | None, after: float | None) -> str:
    """`before → after`, each with three digits."""
    texts = ["-" if value is None else f"{value:.3f}" for value in (before, after)]
    return "-" if texts == ["-", "-"] else " → ".join(texts)


def safe(text: str) -> str:
    """`text` without what could move a terminal's cursor."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def block(name: str, text: str | None) -> Iterator[str]:
    """`text` line by line behind `name`, wrapped to a readable width."""
    lines = [part for line in (text or "-").splitlines() for part in textwrap.wrap(line, 100) or [""]]
    for i, line in enumerate(lines):
        yield (name if i == 0 else " " * len(name)) + line
