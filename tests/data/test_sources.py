"""Rows with their places from real files."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from tutelage.data.lines import MAX_LINE
from tutelage.data.sources import files, read, read_memory
from tutelage.errors import DataError, MissingInputError, Problem


def numbers(path: Path) -> list[int]:
    """The places of the rows of a file without problems."""
    places = []
    for item in read(str(path)):
        assert not isinstance(item, Problem), item
        places.append(item[0].row)
    return places


def rows(path: Path) -> list[dict[str, object]]:
    return [item[1] for item in read(str(path)) if not isinstance(item, Problem)]


def test_jsonl_skips_blank_lines_and_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"a": 1}\r\n  \n{"a": 2}\n\n{"a": 3}')
    assert numbers(path) == [2, 4, 6]


def test_line_separators_inside_text_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "x\u2028y\u0085z"}\n{"a": 2}\n', encoding="utf-8")
    assert numbers(path) == [1, 2]
    assert rows(path)[0]["a"] == "x\u2028y\u0085z"


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.JSONL"])
def test_byte_order_mark_is_no_text(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert rows(tmp_path / name) == [{"a": 1}]


def test_json_counts_items(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"a": 1}, {"a": 2}], indent=2))
    assert numbers(path) == [1, 2]
    path.write_text(json.dumps({"version": "1", "data": [{"a": 1}, {"a": 2}]}))
    assert rows(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_place_is_where_the_record_starts(delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = ["\ufeffprompt|response", '"two\nlines, ""quoted"""|b', "", "c|d e", ""]
    path.write_text("\r\n".join(lines).replace("|", delimiter), encoding="utf-8", newline="")
    assert numbers(path) == [2, 5]
    assert rows(path) == [{"prompt": 'two\nlines, "quoted"', "response": "b"}, {"prompt": "c", "response": "d e"}]


def test_tsv_may_have_commas_in_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a,b,c\td\n1\t2\n")
    assert rows(path) == [{"a,b,c": "1", "d": "2"}]


def test_folder_is_read_sorted_and_deep(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "sub/c.json", ".hidden.jsonl", ".git/d.jsonl", "LICENSE", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [os.path.relpath(file, tmp_path) for file in files(str(tmp_path))]
    assert names == ["a.csv", "b.jsonl", "sub/c.json"]


def test_source_is_the_path_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"a": 1}\n')
    (item,) = read(files("./a.jsonl")[0])
    assert not isinstance(item, Problem)
    assert str(item[0]) == "./a.jsonl:1"


def test_problems_do_not_hide_later_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n\xff\n{"a": 4}\n')
    items = list(read(str(path)))
    assert [isinstance(item, Problem) for item in items] == [False, True, True, False]


def test_an_overlong_line_is_never_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        for _ in range(8):
            file.write(b"x" * MAX_LINE)
        file.write(b'\n{"a": 1}\n\xff\n')
    tracemalloc.start()
    items = list(read(str(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_LINE
    assert isinstance(items[0], Problem)
    assert f"{8 * MAX_LINE + 1:,} bytes" in items[0].why
    assert not isinstance(items[1], Problem)
    assert items[1][0].row == 2
    assert isinstance(items[2], Problem)
    assert f"at byte {8 * MAX_LINE + 10} " in items[2].why


def test_the_longest_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = b'{"a": "' + b"x" * (MAX_LINE - 9) + b'"}'
    assert len(row) == MAX_LINE
    path.write_bytes(row + b"\n" + row)
    assert numbers(path) == [1, 2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    path.chmod(0)
    with pytest.raises(MissingInputError, match="Permission denied"):
        list(read(str(path)))


def test_a_file_that_vanishes_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="cannot be read"):
        list(read(str(tmp_path / "a.jsonl")))


def test_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="regular file"):
        files(str(tmp_path / "a.jsonl"))


def test_rows_in_memory_keep_the_rules_of_files() -> None:
    loop: list[object] = []
    loop.append(loop)
    items = list(
        read_memory(({"a": 1}, {"a": {1, 2}}, {"a": float("nan")}, {"a": {1: 2}}, {"a": loop}, {"a": (1,)}, {}))
    )
    assert [isinstance(item, Problem) for item in items] == [False, True, True, True, True, True, True]
    assert isinstance(items[1], Problem)
    assert items[1].where == "<memory>:2"


def test_a_file_of_nothing_but_broken_rows_is_left_early(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + "1," * 30_000 + "1]")
    found = list(read(str(path)))
    assert len(found) == 10_002
    assert isinstance(found[-1], Problem)
    assert "not looked at" in found[-1].what
