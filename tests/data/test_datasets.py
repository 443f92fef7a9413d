"""The names of a hub's data sets."""

from pathlib import Path

import pytest

from tutelage.data.datasets import DATASETS, Bound, DatasetRef, names_dataset, parse_dataset
from tutelage.errors import DataError


@pytest.mark.parametrize(
    "path, ref",
    [
        ("hub:org/set", DatasetRef("org/set")),
        ("hub:org/set@v1.2:test", DatasetRef("org/set", revision="v1.2", split="test")),
        ("hub:org/set/en@refs/convert/parquet:train[:10%]",
         DatasetRef("org/set", "en", "refs/convert/parquet", last=Bound(10, True))),
        ("hub:org/set:train[5:100]", DatasetRef("org/set", first=Bound(5, False), last=Bound(100, False))),
        ("dolly-15k", DatasetRef("databricks/databricks-dolly-15k")),
        ("gpt4all-j@v1.3-groovy:train[50%:]",
         DatasetRef("nomic-ai/gpt4all-j-prompt-generations", revision="v1.3-groovy", first=Bound(50, True))),
    ],
)  # fmt: skip
def test_a_name_says_repository_revision_split_and_slice(path: str, ref: DatasetRef) -> None:
    assert names_dataset(path)
    assert parse_dataset(path) == ref


@pytest.mark.parametrize(
    "path",
    ["hub:", "hub:set", "hub:org/set:train[", "hub:org/set:train[10]", "hub:org/set:train[:120%]", "hub:../x/y",
     "hub:org/set:train[-5:]", "hub:org/../set", "dolly-15k:train[a:b]", "hub:https://x.org/y", "hub:org/set\n"],
)  # fmt: skip
def test_a_wrong_name_is_a_sentence(path: str) -> None:
    with pytest.raises(DataError, match="fix: "):
        parse_dataset(path)


def test_a_file_of_the_same_name_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dolly-15k").mkdir()
    assert not names_dataset("dolly-15k")
    assert not names_dataset("rows.jsonl")


def test_slices_cut_every_row_once() -> None:
    for rows in (1, 7, 100, 1001):
        edges = [Bound(percent, True).row(rows) for percent in range(0, 101, 10)]
        assert edges == sorted(edges)
        assert (edges[0], edges[-1]) == (0, rows)
    assert Bound(10, False).row(3) == 3


def test_every_known_set_has_a_licence() -> None:
    assert all(parse_dataset(name).repo == each.hub and each.licence for name, each in DATASETS.items())
