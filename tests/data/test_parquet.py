from pathlib import Path

import pytest

from tutelage.data.parquet import read_parquet
from tutelage.data.sources import read
from tutelage.data.types import At
from tutelage.errors import Problem

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def test_rows_and_their_numbers_over_batches(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"prompt": f"p {i}", "response": None if i % 5 == 0 else f"r {i}", "n": i} for i in range(2500)]
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    assert list(read(str(path))) == [(At(str(path), i), row) for i, row in enumerate(rows, 1)]


def test_damage_is_a_problem_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"prompt": [f"p {i}" * 50 for i in range(5000)]}), path)
    path.write_bytes(path.read_bytes()[:-5000])
    (problem,) = read_parquet(str(path))
    assert isinstance(problem, Problem)
    assert problem.where == f"{path}:1"


def test_values_that_json_has_not_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"prompt": [b"bytes"], "response": ["x"]}), path)
    (problem,) = read_parquet(str(path))
    assert isinstance(problem, Problem)
    assert "bytes" in problem.what
