"""Rows of a delimited table: comma, semicolon or tab, with a header row."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from tutelage.data.jsonvalue import shown
from tutelage.data.lines import Line, read_lines
from tutelage.data.types import At
from tutelage.errors import Problem

DELIMITERS = ",;\t"


def read_table(file: str) -> Iterator[tuple[At, dict[str, object]] | Problem]:
    """The records of a CSV or TSV file; a row's place is the line where its record starts."""
    lines = itertools.dropwhile(lambda line: not line.text.strip() and not line.problem, read_lines(file))
    first = next(lines, None)
    if first is None:
        return
    if first.problem:
        yield first.problem
        return
    problems: list[Problem] = []
    delimiter = "\t" if Path(file).suffix.lower() == ".tsv" else _sniff(first.text)
    reader = csv.reader(_fed(itertools.chain([first], lines), problems), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = first.number
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            yield from problems
            yield _broken_record(file, start, error)
            return
        yield from problems
        problems.clear()
        if record is None:
            return
        if header is None:
            header = [name.strip() for name in record]
            if problem := _header_problem(header, f"{file}:{start}"):
                yield problem
                return
        elif record:  # an empty line has no fields
            yield _row(header, record, At(file, start))
        start = first.number + reader.line_num


def _fed(lines: Iterator[Line], problems: list[Problem]) -> Iterator[str]:
    for line in lines:
        if line.problem:
            problems.append(line.problem)
        yield line.text.replace("\0", "") + "\n"


def _sniff(header: str) -> str:
    """The delimiter that stands most often in the header; the comma where none does."""
    return max(DELIMITERS, key=header.count)


def _header_problem(header: list[str], where: str) -> Problem | None:
    fix = "the first line names the columns, e.g. prompt,response"
    if "" in header:
        return Problem("a column of the header has no name", where, f"column {header.index('') + 1}", fix)
    repeated = [name for name in header if header.count(name) > 1]
    if repeated:
        return Problem(f"the column {shown(repeated[0])} stands twice in the header", where, fix="rename one of them")
    return None


def _row(header: list[str], record: list[str], at: At) -> tuple[At, dict[str, object]] | Problem:
    if len(record) != len(header):
        return Problem(
            f"the row has {len(record)} fields and the header {len(header)}",
            str(at),
            "a field that contains the delimiter or a line break must stand in double quotes",
            "write the file with a CSV library, or use JSON Lines",
        )
    return at, dict(zip(header, record))


def _broken_record(file: str, start: int, error: csv.Error) -> Problem:
    return Problem(
        "the record that starts here cannot be read",
        f"{file}:{start}",
        f"{error}; the rest of the file was not looked at",
        'close the quote, write " inside a field as "", or use JSON Lines',
    )
