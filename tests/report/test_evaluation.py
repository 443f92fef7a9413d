"""Evaluations in the report: every part is shown, odd values do no harm."""

import json
import re
from pathlib import Path
from typing import Any

from tutelage.report.evaluation import evaluations
from tutelage.report.page import render
from tutelage.report.svg import Span, spans


def estimate(value: float, low: float, high: float) -> dict[str, Any]:
    return {
        "value": value,
        "low": low,
        "high": high,
        "n": 80,
        "method": "Wilson",
        "higher_is_better": True,
        "signature": "s",
    }


def change(value: float, low: float, high: float, verdict: str, higher: bool = True) -> dict[str, Any]:
    return {"first": 0.5, "second": 0.5 + value, "value": value, "low": low, "high": high, "n": 80, "method": "m",
            "verdict": verdict, "higher_is_better": higher}  # fmt: skip


EVALUATION = {
    "model": "runs/x", "task": "classify", "data": "test.jsonl", "rows": 80, "main_metric": "accuracy",
    "metrics": {"accuracy": estimate(0.9, 0.82, 0.95), "loss": estimate(1.0, 0.9, 1.1)}, "left_out": {},
    "untouched": {"system": "untouched model", "metrics": {"accuracy": estimate(0.5, 0.4, 0.6)}},
    "baselines": [{"system": "majority", "metrics": {"accuracy": estimate(0.25, 0.2, 0.4)}}],
    "comparison": {"differences": {"accuracy": change(0.4, 0.3, 0.5, "better")},
                   "changed": [{"file": "test.jsonl", "row": 7, "input": "<b>where</b>", "reference": "card",
                                "output": "card", "before": "login", "score": 1.0}]},
    "slices": [{"by": "length", "value": "1 to 9 words", "score": estimate(0.8, 0.7, 0.9)}],
    "confusion": {"names": ["card", "login"], "counts": [[40, 2], [0, 38]], "frequent": [["card", "login", 2]]},
    "per_class": [{"name": "card", "support": 42, "precision": estimate(1, 0.9, 1), "recall": estimate(0.95, 0.8, 1),
                   "f1": estimate(0.97, 0.9, 1)}],
    "forgetting": {"probes": {"general_text": change(0.2, 0.1, 0.3, "worse", False),
                              "knowledge": change(-0.01, -0.1, 0.08, "cannot tell")},
                   "before": {"general_text": estimate(3.1, 3.0, 3.2)}, "after": {"general_text": estimate(3.3, 3.2, 3.4)},
                   "divergence": estimate(0.12, 0.1, 0.15)},
    "learning_curve": {"metric": "accuracy", "sentence": "doubling the labels helped",
                       "points": [{"share": 0.5, "rows": 40, "score": estimate(0.7, 0.6, 0.8)}]},
    "worst": [{"file": "test.jsonl", "row": 3, "input": "x", "reference": ["B-PER", "O"], "output": ["O", "O"], "score": 0.0}],
}  # fmt: skip


def write(run: Path, name: str, value: object) -> None:
    folder = run / "evaluation" / name
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(value))


def test_everything_that_was_found_is_on_the_page(finished_run: Path) -> None:
    assert evaluations(finished_run) == []
    assert "Evaluation on" not in render(finished_run)
    write(finished_run, "test", EVALUATION)
    page = render(finished_run)
    for text in (
        "Evaluation on", "0.900 [0.820, 0.950]", "Baseline: majority", "1 to 9 words", "card", "It became worse at: general text.",
        "0.120 [0.100, 0.150] nats per token", "Doubling the labels helped", "test.jsonl:7", "&lt;b&gt;where&lt;/b&gt;",
        "cannot tell with n = 80", "B-PER · O",
    ):  # fmt: skip
        assert text in page, text


def test_a_rise_of_the_loss_is_drawn_to_the_left(finished_run: Path) -> None:
    write(finished_run, "test", EVALUATION)
    (found,) = evaluations(finished_run)
    pictures = {name: str(picture) for _, name, picture, _ in found["forgetting"]["plot"]}
    assert "worse" in pictures["general text"]
    assert 'class="value worse" x="29.5"' in pictures["general text"]  # two half-widths left of the middle


def example(**values: Any) -> dict[str, Any]:
    return {"file": "test.jsonl", "row": 3, "score": 0.0, **values}


def test_entities_are_coloured(finished_run: Path) -> None:
    row = example(input="Ada <b> met Bo .", reference=["B-PER", "O", "O", "B-PER", "O"], output=["B-LOC", "I-LOC", "O", "O", "O"],
                  before=["O"] * 5)  # fmt: skip
    write(finished_run, "tags", {**EVALUATION, "task": "tag", "worst": [row], "comparison": {"changed": [row]}})
    page = render(finished_run)
    assert page.count('<mark class="kind-0">Ada &lt;b&gt;<small>LOC</small></mark> met Bo .') == 2
    assert (
        page.count('<mark class="kind-1">Ada<small>PER</small></mark> &lt;b&gt; met <mark class="kind-1">Bo<small>PER')
        == 2
    )
    assert '<p class="text" dir="auto">Ada &lt;b&gt; met Bo .</p>' in page


def test_answers_are_marked_where_they_stand(finished_run: Path) -> None:
    row = example(input="Who?", context="So <i> Ada Lovelace wrote it.", reference=["Ada Lovelace", "nobody"],
                  output="Lovelace wrote", before="So")  # fmt: skip
    write(finished_run, "spans", {**EVALUATION, "task": "extract", "comparison": {"changed": [row]}})
    page = render(finished_run)
    assert (
        '<mark class="before">So</mark> &lt;i&gt; <mark class="reference">Ada </mark>'
        '<mark class="after reference">Lovelace</mark><mark class="after"> wrote</mark> it.</p>'
    ) in page


def test_odd_values_do_no_harm(finished_run: Path) -> None:
    hurt: dict[str, Any] = {**EVALUATION, "untouched": None, "comparison": None, "confusion": None, "forgetting": None,
                            "metrics": {"accuracy": {"value": None}, "x": 3}, "slices": [7], "worst": None}  # fmt: skip
    write(finished_run, "hurt", hurt)
    write(finished_run, "other", [1, 2])
    assert "Evaluation on" in render(finished_run)


def test_spans_stay_on_their_scale() -> None:
    drawn = str(spans([Span(0.5, 0.4, 0.6, "after"), Span(0.9, 0.9, 0.9, "before")], least=0.0, most=1.0))
    assert 'x="40"' in drawn
    assert drawn.count("<rect") == 4
    assert spans([]) == ""


def test_slices_of_a_score_beyond_one_stay_in_their_picture(finished_run: Path) -> None:
    slices = [
        {"by": "length", "value": "short", "score": estimate(value, value - 5, value + 5)} for value in (20.0, 60.0)
    ]
    write(finished_run, "test", {**EVALUATION, "slices": slices})
    (shown,) = evaluations(finished_run)
    pictures = [str(one["picture"]) for one in shown["slices"]]
    places = [float(x) for picture in pictures for x in re.findall(r'(?:x|x1|x2|cx)="([-0-9.]+)"', picture)]
    assert places
    assert all(0 <= place <= 100 for place in places)
