"""Check and prepare in shards: whatever the number of shards, their merge is the single run."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage.errors import DataError, MissingInputError, TutelageError, UsageError

SHARDS = [2, 5]  # fewer and more than there are files


def faulty(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows with repeats, near-duplicates, contradictions, fields of other types, personal data, and hard texts."""
    rows: list[dict[str, Any]] = []
    for i in range(start, start + count):
        words = " ".join(hashlib.sha256(f"{i} {k}".encode()).hexdigest()[:4] for k in range(20))
        rows.append(
            {"prompt": f"What is {words}", "response": f"{i}; mail a{i}@example.org \u2028 “ü” 😀", "user": i % 11}
        )
    for i in range(0, count, 60):
        rows.append({**rows[i], "prompt": rows[i]["prompt"] + "."})
        rows.append({**rows[i], "prompt": rows[i]["prompt"] + " please"})
        rows.append({"prompt": rows[i]["prompt"], "response": "No, something else."})
        rows.append(
            {"prompt": 5, "response": rows[i]["response"]} if i % 120 else {"prompt": "Ã¼ber <b>x</b>", "response": ""}
        )
    return rows


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files to prepare; one has several chunks of rows."""
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps(row) for row in faulty(1010)]
    (tmp_path / "big.jsonl").write_text("\n".join([*lines[:99], "{broken", *lines[99:]]) + "\n", encoding="utf-8")
    (tmp_path / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in faulty(60, 990)), encoding="utf-8")
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in faulty(10, 1005)), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(
        "data: {train: [big.jsonl, {path: small.jsonl, weight: 1.5}], test: [test.jsonl], validation: 0.1,\n"
        "  clean: [+mask_personal, +html], split: {group: user}, prepared: out}\n",
        encoding="utf-8",
    )
    return tmp_path


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("count", SHARDS)
def test_merged_prepare_is_the_single_prepare_in_every_byte(folder: Path, count: int) -> None:
    single = tutelage.data_prepare("recipe.yaml", processes=1)
    expected = files_of(folder / "out")
    parts = [f"{i}.shard" for i in range(1, count + 1)]
    for i, part in enumerate(parts, 1):
        tutelage.data_prepare("recipe.yaml", processes=1, shard=f"{i}/{count}", partial=part)
    merged = tutelage.data_merge(list(reversed(parts)), processes=1)
    assert merged == single
    assert files_of(folder / "out") == expected
    assert {"report.html", "dropped.jsonl", "changed.jsonl"} <= expected.keys()
    assert {"near_duplicate", "leak", "unreadable_row"} <= single["dropped"].keys()


def test_merged_check_is_the_single_check(folder: Path) -> None:
    count = 5
    names = ["big.jsonl", "small.jsonl", "test.jsonl"]
    single = tutelage.data_check(names, html="single.html", processes=1)
    parts = [f"{i}.shard" for i in range(1, count + 1)]
    for i, part in enumerate(parts, 1):
        tutelage.data_check(names, processes=1, shard=f"{i}/{count}", partial=part)
    merged = tutelage.data_merge(parts, html="merged.html")
    assert {**merged, "html": ""} == {**single, "html": ""}
    assert json.dumps(merged["profile"]) == json.dumps(single["profile"])  # in the same order too
    assert Path("merged.html").read_bytes() == Path("single.html").read_bytes()
    assert {"near_duplicate", "contradiction", "split_overlap", "type_clash"} <= {f["kind"] for f in single["findings"]}


def test_a_file_that_breaks_off_is_reported_once(folder: Path) -> None:
    (folder / "cut.json").write_text("[" + ", ".join(json.dumps(row) for row in faulty(1000)) + ", {", encoding="utf-8")
    single = tutelage.data_check("cut.json", processes=1)
    for i in (1, 2, 3):
        tutelage.data_check("cut.json", processes=1, shard=f"{i}/3", partial=f"{i}.shard")
    assert tutelage.data_merge(["1.shard", "2.shard", "3.shard"]) == single


def test_every_shard_has_its_own_rows(folder: Path) -> None:
    tutelage.data_check(["big.jsonl"], shard="2/3", partial="2.shard", processes=1)
    with zipfile.ZipFile("2.shard") as file:
        assert [name for name in file.namelist() if name != "head.json"] == [
            f"00000000-{chunk:08}.npz" for chunk in (1,)
        ]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/3/5", "-1/3", ""])
def test_a_wrong_shard_is_a_sentence(folder: Path, shard: str) -> None:
    with pytest.raises(UsageError, match="is no shard"):
        tutelage.data_check("big.jsonl", shard=shard, partial="x.shard")


def test_options_that_need_all_rows_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="need all rows"):
        tutelage.data_check("big.jsonl", shard="1/2", partial="x.shard", html="x.html")
    with pytest.raises(UsageError, match="go together"):
        tutelage.data_prepare("recipe.yaml", shard="1/2")


def test_shards_that_do_not_belong_together_are_refused(folder: Path) -> None:
    for i in (1, 2):
        tutelage.data_check("small.jsonl", shard=f"{i}/2", partial=f"{i}.shard")
    with pytest.raises(DataError, match="lacking are 2/2"):
        tutelage.data_merge(["1.shard"])
    with pytest.raises(DataError, match="named twice"):
        tutelage.data_merge(["1.shard", "2.shard", "2.shard"])
    with pytest.raises(MissingInputError, match=r"3\.shard"):
        tutelage.data_merge(["1.shard", "3.shard"])
    tutelage.data_check("small.jsonl", near=0.9, shard="2/2", partial="2.shard")
    with pytest.raises(DataError, match=r"another job[\s\S]*differs from 1\.shard in plan"):
        tutelage.data_merge(["1.shard", "2.shard"])
    with open("small.jsonl", "a", encoding="utf-8") as file:
        file.write('{"prompt": "one more", "response": "row"}\n')
    tutelage.data_check("small.jsonl", shard="2/2", partial="2.shard")
    with pytest.raises(DataError, match="in sizes"):
        tutelage.data_merge(["1.shard", "2.shard"])


def test_a_damaged_shard_is_a_sentence(folder: Path) -> None:
    tutelage.data_check("small.jsonl", shard="1/1", partial="1.shard")
    whole = Path("1.shard").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:600] + bytes(60) + whole[660:], b"PK\x03\x04 no zip"):
        Path("1.shard").write_bytes(damaged)
        with pytest.raises(TutelageError, match="damaged"):
            tutelage.data_merge("1.shard")


def test_a_shard_that_fails_leaves_no_file(folder: Path) -> None:
    with pytest.raises(DataError):
        tutelage.data_prepare("recipe.yaml", set=("data.broken=error",), shard="1/1", partial="1.shard", processes=1)
    assert not [path for path in folder.iterdir() if "shard" in path.name]
