import json
from pathlib import Path
from typing import Any

from tutelage.data.nested import unfolded
from tutelage.data.sources import read
from tutelage.data.types import At
from tutelage.errors import Problem


def message(name: str, parent: str | None, rank: int | None = None, **more: object) -> dict[str, Any]:
    role = "assistant" if parent and len(name) % 2 == 0 else "prompter"
    return {"message_id": name, "parent_id": parent, "role": role, "text": f"text {name}", "rank": rank, **more}


def rows(*given: dict[str, Any]) -> list[Any]:
    return list(unfolded(iter([(At("a", number), row) for number, row in enumerate(given, 1)])))


def test_each_instance_is_a_row() -> None:
    instances = [{"input": "1", "output": "one"}, {"output": "none"}]
    found = rows({"instruction": "Count", "instances": instances}, {"instruction": "Bad", "instances": "x"})
    assert found[0] == (At("a", 1), {"instruction": "Count", "input": "1", "output": "one"})
    assert found[1] == (At("a", 1), {"instruction": "Count", "input": "", "output": "none"})
    assert isinstance(found[2], Problem)
    assert found[2].where == "a:2"


def test_the_best_ranked_path_of_each_tree() -> None:
    found = rows(
        message("a", None), message("aa", "a", 1), message("ab", "a", 0), message("ac", "a"),
        message("aba", "ab", 0), message("b", None), message("bb", "b", 0, deleted=True), message("ba", "b", 1),
    )  # fmt: skip
    turns = [[turn["content"] for turn in row["messages"]] for _, row in found]
    assert turns == [["text a", "text ab"], ["text b", "text ba"]]
    assert [at.row for at, _ in found] == [1, 6]


def test_orphans_deleted_roots_and_circles_are_problems_and_not_loops() -> None:
    found = rows(message("a", None, deleted=True), message("cc", "gone"), message("dd", "ee"), message("ee", "dd"))
    assert [item.where for item in found if isinstance(item, Problem)] == ["a:2", "a:1"]


def test_other_rows_pass() -> None:
    assert rows({"prompt": "a"}, {"instances": "x"}) == [
        (At("a", 1), {"prompt": "a"}),
        (At("a", 2), {"instances": "x"}),
    ]


def test_files_are_unfolded(tmp_path: Path) -> None:
    path = tmp_path / "seed.jsonl"
    path.write_text(json.dumps({"instruction": "Count", "instances": [{"input": "", "output": "one"}]}) + "\n")
    assert list(read(str(path))) == [(At(str(path), 1), {"instruction": "Count", "input": "", "output": "one"})]
