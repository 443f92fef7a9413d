# ruff: noqa: E501
from pathlib import Path

import pytest

from tutelage.errors import MissingInputError, OutputError
from tutelage.report.facts import LISTED_DROPS, read
from tutelage.runs import append_event


def test_what_was_redone_after_a_resume_stands_once(finished_run: Path) -> None:
    steps = read(finished_run).of("step", "loss")
    assert [event["step"] for event in steps] == list(range(1, 121))
    assert max(event["loss"] for event in steps) < 3  # the 77.0 of the killed process is gone


def test_a_run_that_began_again_without_a_checkpoint_stands_once(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    for number, loss in ((1, 5.0), (2, 5.0), (3, 5.0), (1, 2.0), (2, 1.0)):
        append_event(tmp_path, {"event": "step", "step": number, "loss": loss})
    assert [(one["step"], one["loss"]) for one in read(tmp_path).of("step", "loss")] == [(1, 2.0), (2, 1.0)]


def test_events_without_finite_numbers_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "events.jsonl").write_text(
        '{"event": "step", "step": 1, "loss": NaN}\n{"event": "step", "step": 2, "loss": "3"}\n{"event": "step", "step": 3, "loss": 4}\n'
    )
    assert [event["step"] for event in read(tmp_path).of("step", "loss")] == [3]


def test_only_the_first_drops_are_read_and_all_are_counted(finished_run: Path) -> None:
    facts = read(finished_run)
    assert (len(facts.drops), facts.dropped) == (LISTED_DROPS, 60)
    assert facts.drops[0]["row"] == 400


def test_a_line_that_cannot_be_read_says_so(finished_run: Path) -> None:
    (finished_run / "dropped.jsonl").write_text('{"reason": "x"}\n{"reas')
    assert [drop["reason"] for drop in read(finished_run).drops] == ["x", "this line of dropped.jsonl cannot be read"]


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"it has no manifest\.json"):
        read(tmp_path)


def test_a_damaged_file_is_named(finished_run: Path) -> None:
    (finished_run / "samples.json").write_text("{}")
    with pytest.raises(OutputError, match=r"samples\.json.*damaged"):
        read(finished_run)


@pytest.mark.parametrize(
    ("recipe", "method"),
    [
        ("method: full\n", {"kind": "full"}),
        ("method: {kind: lora, rank: 8}", {"kind": "lora", "rank": 8}),
        ("{", {}),
        ("", {}),
    ],
)
def test_the_method_comes_from_the_recipe(finished_run: Path, recipe: str, method: dict[str, object]) -> None:
    (finished_run / "recipe.yaml").write_text(recipe)
    assert read(finished_run).method == method
