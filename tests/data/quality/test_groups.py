import json
from collections import Counter
from pathlib import Path

import tutelage
from tutelage.data.quality.groups import connections, mentioned


def test_groups_are_named_by_whole_words() -> None:
    assert mentioned("She met an elderly man.") == {"women", "men", "old people"}
    assert mentioned("The sheet, a manual and germane heroes") == set()


def test_only_unlikely_shares_are_connections() -> None:
    labels = Counter({"good": 500, "bad": 500})
    mentions = {
        "women": Counter({"bad": 40, "good": 5}),
        "men": Counter({"bad": 25, "good": 20}),
        "jews": Counter({"bad": 9}),
    }
    found = list(connections(labels, mentions))
    assert [(group, label) for group, label, *_ in found] == [("women", "bad"), ("women", "good")]


def test_a_connection_is_a_finding(tmp_path: Path) -> None:
    rows = [
        {
            "text": f"text {i} about {'immigrants' if i % 4 == 0 else 'weather'} today",
            "label": "bad" if i % 4 == 0 else "good",
        }
        for i in range(200)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tutelage.data_check(str(path))
    (finding,) = [each for each in report["findings"] if each["kind"] == "identity_imbalance"]
    assert finding["examples"][0]["row"] == 1
    assert "immigrants" in finding["examples"][0]["detail"]
