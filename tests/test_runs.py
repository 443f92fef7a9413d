"""The run folder: atomic files, an event log that survives kills, a history without repeats."""

import json
from pathlib import Path

import pytest

from tutelage.errors import MissingInputError, OutputError
from tutelage.runs import append_event, find_run, history, read_events, read_json, write_json


def test_a_torn_line_is_closed_and_skipped(tmp_path: Path) -> None:
    append_event(tmp_path, {"event": "step", "step": 1})
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"event": "step", "st')
    append_event(tmp_path, {"event": "step", "step": 2})
    assert [event["step"] for event in read_events(tmp_path)] == [1, 2]


def test_what_was_done_again_after_a_resume_stands_once(tmp_path: Path) -> None:
    for event in ("step 1", "step 2", "step 3", "resumed 1", "step 2", "step 3"):
        name, step = event.split()
        append_event(tmp_path, {"event": name, "step": int(step)})
    assert [(e["event"], e["step"]) for e in history(tmp_path)] == [
        ("step", 1),
        ("resumed", 1),
        ("step", 2),
        ("step", 3),
    ]
    append_event(tmp_path, {"event": "resumed", "step": 0})
    assert [(e["event"], e["step"]) for e in history(tmp_path)] == [("resumed", 0)]


def test_a_failed_write_leaves_the_old_file_and_no_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"
    write_json(path, {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        write_json(path, {"a": 2})
    assert caught.value.exit_code == 73
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_nan_never_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        append_event(tmp_path, {"event": "step", "loss": float("nan")})
    assert list(read_events(tmp_path)) == []


def test_a_damaged_or_missing_file_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(OutputError, match="damaged"):
        read_json(tmp_path / "manifest.json")
    with pytest.raises(MissingInputError, match="not a run folder"):
        find_run(tmp_path / "elsewhere")
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    assert find_run(tmp_path) == tmp_path
