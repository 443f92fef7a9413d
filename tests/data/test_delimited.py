from pathlib import Path

from tutelage.data.delimited import read_delimited
from tutelage.data.types import At
from tutelage.errors import Problem


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_column_that_repeats_is_the_label(tmp_path: Path) -> None:
    file = write(tmp_path / "messages", 'ham\tI said "hello\nspam\tWin now\nham\tSee you, later\n')
    assert next(iter(read_delimited(file))) == (At(file, 1), {"label": "ham", "text": 'I said "hello'})
    swapped = write(tmp_path / "swapped", "I said hello\tham\nWin now\tspam\nSee you\tham\n")
    assert list(read_delimited(swapped))[1] == (At(swapped, 2), {"text": "Win now", "label": "spam"})


def test_more_columns_are_numbered(tmp_path: Path) -> None:
    file = write(tmp_path / "three", "a\tb\tc\n\nd\te\tf\n")
    assert list(read_delimited(file))[1] == (At(file, 3), {"column_1": "d", "column_2": "e", "column_3": "f"})


def test_a_line_that_was_broken_in_two_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "broken", "ham\tone\n" * 5 + "ham\ttwo is he\nre though\n" + "ham\tthree\n" * 5)
    (problem,) = [item for item in read_delimited(file) if isinstance(item, Problem)]
    assert problem.where == f"{file}:7"
    assert "1 field and the others 2" in problem.what
    assert "join it" in problem.fix


def test_lines_without_columns_are_no_table(tmp_path: Path) -> None:
    (problem,) = read_delimited(write(tmp_path / "prose", "one\ntwo\n"))
    assert isinstance(problem, Problem)
    assert "no columns" in problem.what
