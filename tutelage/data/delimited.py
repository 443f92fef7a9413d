"""Text files whose lines are fields between tabs, without a header and without quotes (the SMS collection's shape)."""

from collections.abc import Iterator
from itertools import chain, islice

from tutelage.data.jsonvalue import shown
from tutelage.data.lines import Line, read_lines
from tutelage.data.types import At
from tutelage.errors import Problem

LOOKED_AT = 200  # lines that decide how many columns there are
AGREE = 0.9  # of them must have that many


def read_delimited(file: str) -> Iterator[tuple[At, dict[str, object]] | Problem]:
    """The lines of `file` as rows. With two columns they are `label` and `text`: the label is the one that repeats."""
    lines = iter(line for line in read_lines(file) if line.problem or line.text.strip())
    first = list(islice(lines, LOOKED_AT))
    columns = _columns(first)
    if not columns:
        yield from (line.problem for line in first if line.problem)
        if any(not line.problem for line in first):
            fix = "name it .jsonl, .json, .csv or .tsv after what it is"
            yield Problem("the lines have no columns", f"{file}:1", "a tab must stand between the fields", fix)
        return
    names = _names(first, columns)
    for line in chain(first, lines):
        yield line.problem or _row(line, names, file)


def _columns(lines: list[Line]) -> int:
    """How many fields nearly all lines have; 0 where they do not agree, or have only one."""
    counts = [line.text.count("\t") + 1 for line in lines if not line.problem]
    if not counts:
        return 0
    usual = max(set(counts), key=counts.count)
    return usual if usual > 1 and counts.count(usual) >= AGREE * len(counts) else 0


def _names(lines: list[Line], columns: int) -> list[str]:
    if columns != 2:
        return [f"column_{number}" for number in range(1, columns + 1)]
    pairs = [line.text.split("\t") for line in lines if line.text.count("\t") == 1]
    first, second = (len({pair[side] for pair in pairs}) for side in (0, 1))
    return ["label", "text"] if first <= second else ["text", "label"]


def _row(line: Line, names: list[str], file: str) -> tuple[At, dict[str, object]] | Problem:
    fields = line.text.split("\t")
    if len(fields) == len(names):
        return At(file, line.number), dict(zip(names, fields))
    return Problem(
        f"the line has {len(fields)} field{'s' * (len(fields) > 1)} and the others {len(names)}",
        f"{file}:{line.number}",
        f"it is {shown(line.text)}; a line break within a text starts a new row",
        "join it to the line before, or remove it",
    )
