"""Every task through `evaluate`: the untouched model and the tuned one, by the same code, with intervals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage.errors import DataError
from tutelage.evaluate.files import read_predictions
from tutelage.evaluate.scoring import MAIN
from tutelage.recipe import make_recipe
from tutelage.tasks import TASKS

Made = Callable[[str], Path]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "classify": ("bert", {"kind": "classify"}), "several": ("bert", {"kind": "classify", "multi_label": True}),
    "score": ("bert", {"kind": "classify", "num_labels": 1}),
    "verbalised": ("llama", {"kind": "classify", "verbalised": True, "instruction": "{text}"}),
    "tag": ("bert", {"kind": "tag"}), "extract": ("bert", {"kind": "extract"}),
    "seq2seq": ("t5", {"kind": "seq2seq", "max_target_tokens": 32}), "text": ("llama", {"kind": "text"}),
}  # fmt: skip


def test_every_task_stands_here() -> None:
    assert {task["kind"] for _, task in CASES.values()} | {"chat"} == set(TASKS)
    assert set(MAIN) == set(TASKS)


@pytest.mark.parametrize("case", CASES)
def test_a_tuned_model_is_better_than_the_untouched_one(case: str, made: Made, rows_file: Made, tmp_path: Path) -> None:
    kind, task = CASES[case]
    data, run = str(rows_file(case)), str(tmp_path / "run")
    recipe = make_recipe({
        "model": str(made(kind)), "task": task, "data": {"train": data}, "method": "full", "max_tokens": 128,
        "optim": {"steps": 30, "batch_size": 8, "learning_rate": 3e-3}, "precision": "fp32", "forgetting": False, "threads": 1,
    })  # fmt: skip
    tutelage.train(recipe, out=run)
    found = tutelage.evaluate(run, data=data, skip_forgetting=True, slice="length")
    assert found["task"] == task["kind"]
    assert found["rows"] == 8
    main = found["main_metric"]
    before, after = found["untouched"]["metrics"][main], found["metrics"][main]
    assert (after["value"] > before["value"]) == after["higher_is_better"] or after["value"] == before["value"]
    assert all(one["method"] and one["n"] == 8 for one in found["metrics"].values())
    assert sum(one["score"]["n"] for one in found["slices"]) == 8
    assert found["comparison"]["differences"][main]["verdict"] in ("better", "cannot tell")
    assert len(read_predictions(Path(found["predictions"]))) == 8
    if case in ("classify", "verbalised"):
        assert sum(map(sum, found["confusion"]["counts"])) == 8
    if case in ("classify", "verbalised", "tag"):
        assert found["per_class"]
    json.dumps(found, allow_nan=False)


def test_unlabelled_rows_are_ordered_by_doubt(made: Made, rows_file: Made, tmp_path: Path) -> None:
    data, run = str(rows_file("classify")), str(tmp_path / "run")
    recipe = make_recipe({
        "model": str(made("bert")), "task": {"kind": "classify"}, "data": {"train": data}, "method": "full", "max_tokens": 128,
        "optim": {"steps": 5, "batch_size": 8, "learning_rate": 3e-3}, "precision": "fp32", "forgetting": False, "threads": 1,
    })  # fmt: skip
    tutelage.train(recipe, out=run)
    unlabelled = tmp_path / "unlabelled.jsonl"
    unlabelled.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ("one thing", "and another", "one thing"))
    )
    found = tutelage.evaluate(run, data=data, label_next=str(unlabelled), skip_forgetting=True)
    lines = [json.loads(line) for line in Path(found["label_next"]).read_text().splitlines()]
    assert len(lines) == 2  # the third is the first again
    assert lines[0]["uncertainty"] >= lines[1]["uncertainty"]
    unlabelled.write_text('{"txet": "x"}\n')
    with pytest.raises(DataError, match="no `text`"):
        tutelage.evaluate(run, data=data, label_next=str(unlabelled), skip_forgetting=True)
