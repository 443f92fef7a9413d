import gzip
import json
from pathlib import Path

import pytest

from tutelage.data.packed import open_bytes, suffix_of
from tutelage.data.sources import files, read
from tutelage.errors import Problem

ROWS = [{"prompt": f"Question {i} {i * 7919 % 104729}", "response": f"Answer {i * 104729 % 7919}"} for i in range(400)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize("name, content", [("a.jsonl.gz", LINES), ("a.json.gz", json.dumps(ROWS).encode())])
def test_a_packed_file_reads_like_the_plain_one(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content))
    assert files(str(tmp_path)) == [str(path)]
    assert [item[1] for item in read(str(path)) if not isinstance(item, Problem)] == ROWS


def test_a_cut_file_gives_its_whole_rows_and_says_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(LINES)[:-400])
    *rows, last = read(str(path))
    assert [item[1] for item in rows if not isinstance(item, Problem)] == ROWS[: len(rows)]
    assert len(rows) > 100
    assert isinstance(last, Problem)
    assert last.where == f"{path}:{len(rows) + 1}"
    assert "damaged or cut off" in last.why


def test_the_ending_below_gz_tells_the_kind() -> None:
    assert [suffix_of(name) for name in ("a.JSONL.gz", "b.csv", "c", "d.gz")] == [".jsonl", ".csv", "", ""]


def test_the_stream_can_go_back_to_its_start(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"abcdef"))
    with open_bytes(str(path)) as file:
        assert file.read(3) == b"abc"
        file.seek(0)
        assert file.read() == b"abcdef"
