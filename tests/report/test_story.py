from pathlib import Path
from typing import Any

import pytest

from tutelage.report import story
from tutelage.report.facts import read
from tutelage.report.page import render
from tutelage.runs import append_event, read_json, write_json


def change(run: Path, **values: Any) -> None:
    write_json(run / "manifest.json", read_json(run / "manifest.json") | values)


def told(run: Path) -> str:
    headline = story.headline(read(run))
    return " ".join([headline["status"] + ":", headline["title"] + ".", *headline["lead"]])


def test_a_finished_run(finished_run: Path) -> None:
    assert told(finished_run) == (
        "Finished: smollm2-135m was trained on 320 rows with LoRA, and its held-out loss fell from 2.315 to 1.093. "
        "Perplexity went from 10.12 to 2.984 on 20 held-out rows (2,431 target tokens), scored by the same code before and after. "
        "The model kept is that of step 80, where the held-out loss was 1.093; at step 120 it was 1.121."
    )


def test_a_classification_has_no_perplexity(finished_run: Path) -> None:
    recipe = (finished_run / "recipe.yaml").read_text().replace("kind: chat\n  train_on: all", "kind: classify")
    (finished_run / "recipe.yaml").write_text(recipe)
    page = render(finished_run)
    assert "erplexity" not in page
    assert "target token" not in page.partition("Token contract")[0]
    assert "Label right went from 51.2% to 72.4% on 20 held-out rows (2,431 labels)" in page
    assert "loss (nats per label)" in page


def test_without_scores_in_the_manifest_the_kept_model_is_scored_by_its_event(finished_run: Path) -> None:
    whole = told(finished_run)
    manifest = read_json(finished_run / "manifest.json")
    del manifest["validation"]
    write_json(finished_run / "manifest.json", manifest)
    assert told(finished_run) == whole


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        ("running", "", "Unfinished: smollm2-135m is not finished: 120 steps on 320 rows so far"),
        ("interrupted", "interrupted", "Run the same command on this folder again, and it continues where it stopped."),
        ("failed", "the loss became NaN in step 7", "failed after 120 steps"),
        ("failed", "the loss became NaN in step 7", "the loss became NaN in step 7."),
        ("finished", "early_stopping", "It stopped early because the held-out loss no longer fell."),
    ],
)
def test_other_ends(finished_run: Path, status: str, reason: str, words: str) -> None:
    change(finished_run, status=status, reason=reason)
    assert words in told(finished_run)


@pytest.mark.parametrize(
    ("after", "words", "verdict"),
    [(2.5, "rose from 2.315 to 2.500", "worse"), (2.31, "hardly moved, from 2.315 to 2.310", "better")],
)
def test_no_gain_is_not_sold_as_one(finished_run: Path, after: float, words: str, verdict: str) -> None:
    manifest = read_json(finished_run / "manifest.json")
    manifest["validation"]["after"]["loss"] = after
    write_json(finished_run / "manifest.json", manifest)
    assert words in told(finished_run)
    assert story.scores(read(finished_run))[0].verdict == verdict


def test_no_held_out_rows_is_said(finished_run: Path) -> None:
    change(finished_run, validation={"before": None, "after": None})
    events = (finished_run / "events.jsonl").read_text().splitlines(keepends=True)
    (finished_run / "events.jsonl").write_text("".join(line for line in events if '"validated"' not in line))
    assert "No held-out rows were scored after training" in told(finished_run)
    assert story.scores(read(finished_run)) == []


def test_the_scores_with_their_direction(finished_run: Path) -> None:
    rows = [(row.before, row.after, row.change, row.verdict) for row in story.scores(read(finished_run))]
    assert rows == [
        ("2.315", "1.093", "−1.221", "better"),
        ("10.12", "2.984", "−7.137", "better"),
        ("51.2%", "72.4%", "+21.2 points", "better"),
        ("2,431", "2,431", "", ""),
        ("20", "20", "", ""),
    ]


def test_the_key_figures(finished_run: Path) -> None:
    assert [(fact.label, fact.value) for fact in story.figures(read(finished_run))] == [
        ("Held-out loss", "2.315 → 1.093"),
        ("Next token right", "72.4%"),
        ("Training time", "6 min 12 s"),
        ("Speed", "644"),
        ("Peak memory", "1.2 GiB"),
        ("Trained parameters", "3.5%"),
    ]


def test_what_went_wrong_on_the_way_is_told_in_order(finished_run: Path) -> None:
    append_event(
        finished_run, {"event": "saved", "step": 120, "path": "x", "seconds": 1, "error": "No space left on device"}
    )
    change(finished_run, changes=[{"at": "2026-11-23T21:07:00+00:00", "changed": ["optim.epochs: 2 → 3"]}])
    assert story.incidents(read(finished_run)) == [
        "Continued on 2026-11-23 21:07:00 with --allow-changes: optim.epochs: 2 → 3.",
        "Continued after step 60 from its checkpoint.",
        "A damaged checkpoint was passed over: step-00000070: a hash differs.",
        "Memory ran out in step 64: the step was done again with micro-batches of at most 2,048 tokens. The result is the same.",
        "The checkpoint of step 120 could not be saved: No space left on device.",
    ]


def test_a_run_that_was_scored_only_untouched_says_so(finished_run: Path) -> None:
    lines = (finished_run / "events.jsonl").read_text().splitlines(keepends=True)
    (finished_run / "events.jsonl").write_text("".join(lines[:6]))
    write_json(finished_run / "manifest.json", {"status": "running", "model": {"name": "tiny"}})
    assert told(finished_run) == (
        "Unfinished: tiny is not finished: 5 steps so far. "
        "The untouched model's held-out loss is 2.315; no trained step has been scored yet."
    )
