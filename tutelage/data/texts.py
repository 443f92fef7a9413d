"""Rows of text files that are no tables: CoNLL, paragraphs, SQuAD's nested articles, and two parallel files."""

from collections.abc import Iterator
from itertools import zip_longest

from tutelage.data.jsonvalue import type_name
from tutelage.data.lines import read_lines
from tutelage.data.types import At
from tutelage.errors import Problem

Row = tuple[At, dict[str, object]]


def read_conll(file: str) -> Iterator[Row | Problem]:
    """A row per sentence: the first column of a line is the word, the last one its tag; a blank line ends a sentence.

    A row's place is the line of its first word.
    """
    words: list[str] = []
    tags: list[str] = []
    start = 1
    for line in read_lines(file):
        if line.problem:
            yield line.problem
            continue
        text = line.text.lstrip("\ufeff")
        fields = text.split("\t") if "\t" in text else text.split()
        if not text.strip() or fields[0] == "-DOCSTART-":
            if words:
                yield At(file, start), {"tokens": words, "tags": tags}
            words, tags = [], []
        elif len(fields) < 2 or not fields[0].strip():
            what = "this line has no tag" if len(fields) < 2 else "this line has a tag and no word"
            yield Problem(what, f"{file}:{line.number}", repr(text)[:80], "write the word, a tab and its tag")
        else:
            if not words:
                start = line.number
            words.append(fields[0].strip("\ufeff"))
            tags.append(fields[-1].strip())
    if words:
        yield At(file, start), {"tokens": words, "tags": tags}


def read_paragraphs(file: str) -> Iterator[Row | Problem]:
    """A row per paragraph: lines without a blank one between them."""
    lines: list[str] = []
    start = 1
    for line in read_lines(file):
        if line.problem:
            yield line.problem
        elif line.text.strip():
            if not lines:
                start = line.number
            lines.append(line.text)
        elif lines:
            yield At(file, start), {"text": "\n".join(lines)}
            lines = []
    if lines:
        yield At(file, start), {"text": "\n".join(lines)}


def read_parallel(source: str, target: str) -> Iterator[Row | Problem]:
    """A row per line of two files whose lines belong together; a row's place is its line in `source`."""
    for one, two in zip_longest(read_lines(source), read_lines(target)):
        if one is None or two is None:
            longer, shorter, line = (target, source, two) if one is None else (source, target, one)
            why = "line i of one file is the translation of line i of the other"
            where = f"{longer}:{line.number if line else 1}"
            yield Problem(f"{shorter} has no such line", where, why, "give both files as many lines")
            return
        if one.problem or two.problem:
            yield from (problem for problem in (one.problem, two.problem) if problem)
        elif one.text.strip() or two.text.strip():
            yield At(source, one.number), {"source": one.text, "target": two.text}


def flatten_squad(items: list[object]) -> list[object]:
    """The questions of SQuAD's articles, each with its context; other lists are left as they are."""
    if not items or not all(isinstance(item, dict) and "paragraphs" in item for item in items):
        return items
    rows: list[object] = []
    for article in items:
        assert isinstance(article, dict)
        for paragraph in article["paragraphs"] if isinstance(article["paragraphs"], list) else []:
            if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
                rows.append({"context": None, "question": None, "answers": type_name(paragraph)})
                continue
            for question in paragraph["qas"]:
                asked = question if isinstance(question, dict) else {"question": question}
                rows.append({"context": paragraph.get("context"), "title": article.get("title"), **asked})
    return rows
