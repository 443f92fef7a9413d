"""Reviewing from the command line: in the terminal and by CSV, and that `data prepare` obeys."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import tutelage


def review(folder: Path, *arguments: str, answers: str = "") -> dict[str, object]:
    command = [sys.executable, "-m", "tutelage", "data", "review", *arguments, "--json"]
    run = subprocess.run(command, capture_output=True, text=True, input=answers, cwd=folder, check=True)
    result: dict[str, object] = json.loads(run.stdout)
    return result


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_labelling_stops_and_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": f"text {i}", "label": None} for i in range(4)])
    first = review(tmp_path, "a.jsonl", "--labels", "red,blue", answers="1\nblue\nq\n")
    assert (first["decided"], first["left"]) == (2, 2)
    second = review(tmp_path, "a.jsonl", "--labels", "red,blue", answers="2\n")
    assert (second["decided"], second["left"]) == (1, 1)
    (tmp_path / "r.yaml").write_text(
        json.dumps({"data": {"train": [str(tmp_path / "a.jsonl")], "decisions": str(tmp_path / "decisions.jsonl")}})
    )
    tutelage.data_prepare(str(tmp_path / "r.yaml"), out=str(tmp_path / "out"), processes=1)
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [("text 0", "red"), ("text 1", "blue"), ("text 2", "blue")]


def test_flagged_rows_by_csv(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"quite a different text number {i}", "label": "ab"[i % 2]} for i in range(30)
    ]
    write(tmp_path / "a.jsonl", [*rows, {"text": "Quite a different text number 3!", "label": "a"}])
    result = review(tmp_path, "a.jsonl", "--kinds", "contradiction", "--to-csv", "list.csv")
    assert result["rows"] == 2
    with open(tmp_path / "list.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["row"] for cell in cells] == ["4", "31"]
    cells[1]["decision"] = "drop"
    with open(tmp_path / "list.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, cells[0])
        writer.writeheader()
        writer.writerows(cells)
    assert review(tmp_path, "a.jsonl", "--kinds", "contradiction", "--from-csv", "list.csv")["decided"] == 1
