import csv
import json
from pathlib import Path

import pytest

from tutelage.data.annotate import Item, chosen, read_csv, walk, write_csv
from tutelage.data.decisions import Decision, read_decisions, row_key, write_decisions
from tutelage.data.quality.view import view
from tutelage.data.types import At
from tutelage.errors import DataError


def item(number: int, label: str | None = "a", suggested: str = "") -> Item:
    row: dict[str, object] = {"text": f"text {number}", "label": label}
    at = At("a.jsonl", number)
    return Item(at, row, view(row, at), "why", suggested)


def answered(items: list[Item], labels: list[str], *answers: str) -> tuple[list[Decision], list[str]]:
    left, told = list(answers), list[str]()
    return list(walk(items, labels, lambda question: left.pop(0), told.append)), told


def test_each_answer_is_a_decision() -> None:
    items = [item(i, suggested="b") for i in range(1, 7)]
    made, _ = answered(items, ["a", "b"], "k", "d", "r", "", "f", '{"text": "x", "label": "a"}', "s", "q")
    keys = [row_key(each.row) for each in items]
    assert made == [
        Decision(keys[0], "keep"),
        Decision(keys[1], "drop"),
        Decision(keys[2], "relabel", label="b", label_key="label"),
        Decision(keys[3], "fix", row={"text": "x", "label": "a"}),
    ]


def test_a_slip_is_asked_again() -> None:
    made, told = answered([item(1)], ["a", "b"], "x", "f", "{no json", "r", "c", "r", "2")
    assert made == [Decision(row_key(item(1).row), "relabel", label="b", label_key="label")]
    assert any("not JSON" in line for line in told)
    assert any("no such label" in line for line in told)


def test_rows_without_a_label_are_labelled_by_number_or_name() -> None:
    items = [item(1, None), item(2, ""), item(3, None)]
    made, _ = answered(items, ["red", "blue"], "2", "red", "green", "d")
    assert [(each.decision, each.label) for each in made] == [("relabel", "blue"), ("relabel", "red"), ("drop", None)]
    assert (chosen("2", ["1", "2"]), chosen("9", []), chosen("", [])) == ("2", "9", None)


def test_csv_goes_out_and_comes_back(tmp_path: Path) -> None:
    items = [item(i, suggested="b") for i in range(1, 6)]
    path = str(tmp_path / "review.csv")
    write_csv(path, items, {row_key(items[0].row): Decision(row_key(items[0].row), "keep")})
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["decision"] for row in rows] == ["keep", "", "", "", ""]
    rows[1]["decision"] = "Drop"
    rows[2]["decision"] = "relabel"
    rows[3] |= {"decision": "fix", "new_row": '{"text": "y"}', "note": "better"}
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(reversed(rows))
    found = read_csv(path, items)
    assert [found[row_key(each.row)].decision for each in items[:4]] == ["keep", "drop", "relabel", "fix"]
    assert found[row_key(items[2].row)].label == "b"
    assert found[row_key(items[3].row)].row == {"text": "y"}
    assert len(found) == 4


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@x"])
def test_no_cell_is_a_formula(text: str, tmp_path: Path) -> None:
    row: dict[str, object] = {"text": text, "label": text}
    write_csv(str(tmp_path / "a.csv"), [Item(At("a", 1), row, view(row, At("a", 1)))], {})
    with open(tmp_path / "a.csv", newline="") as file:
        (cells,) = csv.DictReader(file)
    assert cells["label"] == f"'{text}"


def test_faulty_lines_of_a_csv_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    key = row_key(item(1).row)
    path.write_text(f"key,decision,new_label,new_row\n{key},maybe,,\n{key},relabel,,\n{key},fix,,[]\n")
    with pytest.raises(DataError) as caught:
        read_csv(str(path), [item(1)])
    assert [problem.where for problem in caught.value.problems] == [f"{path}:2", f"{path}:3", f"{path}:4"]


def test_decisions_are_the_same_bytes_in_any_order_and_broken_ones_are_named(tmp_path: Path) -> None:
    made = [Decision(f"{i}", "drop", note="n") for i in range(5)]
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    write_decisions(one, made)
    write_decisions(two, made[::-1])
    assert Path(one).read_bytes() == Path(two).read_bytes()
    assert read_decisions(one) == {each.key: each for each in made}
    bad = [
        {"key": "a", "decision": "eat"},
        {"decision": "drop"},
        {"key": "a", "decision": "fix"},
        {"key": "a", "decision": "relabel"},
    ]
    Path(one).write_text("".join(json.dumps(each) + "\n" for each in bad) + "{\n")
    with pytest.raises(DataError) as caught:
        read_decisions(one)
    assert [problem.where for problem in caught.value.problems] == [f"{one}:{i}" for i in range(1, 6)]


def test_the_key_is_the_content() -> None:
    assert row_key({"a": 1, "b": 2}) == row_key({"b": 2, "a": 1, "_at": "x:1"})
    assert row_key({"a": 1}) != row_key({"a": 2})
