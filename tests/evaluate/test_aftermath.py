"""What a run forgot, measured at its end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage.evaluate.aftermath import WRITTEN, few
from tutelage.evaluate.probing import Request
from tutelage.recipe import make_recipe
from tutelage.runs import read_json


@pytest.fixture
def recipe(model_folder: Callable[[str], Path], chat_file: Callable[[int], Path]) -> dict[str, Any]:
    return {
        "model": str(model_folder("llama")), "data": {"train": str(chat_file(8))}, "max_tokens": 200, "precision": "fp32",
        "optim": {"steps": 20, "batch_size": 4, "learning_rate": 2e-2}, "threads": 1, "method": "full",
    }  # fmt: skip


def test_a_run_measures_it_by_default_and_reports_it(recipe: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    result = tutelage.train(make_recipe(recipe), out=str(tmp_path / "run"), say=said.append)
    found = result["forgetting"]
    assert set(found["forgetting"]["probes"]) == {"common_sense", "general_text", "instructions", "knowledge"}
    assert found["rows"] == sum(map(len, few().values()))
    assert found["forgetting"]["probes"]["general_text"]["value"] != 0  # two different models were measured
    assert found["forgetting"]["divergence"]["value"] > 0.01
    assert found["seconds"] > 0
    assert any(line.startswith(f"forgetting: {found['rows']} probes") for line in said)
    assert "What was forgotten" in (tmp_path / "run" / "report.html").read_text()
    json.dumps(result, allow_nan=False)


def test_it_can_be_switched_off_and_that_changes_no_run(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["optim"] = {"steps": 1, "batch_size": 4}
    off = tutelage.train(make_recipe({**recipe, "forgetting": False}), out=str(tmp_path / "run"))
    assert off["forgetting"] is None
    assert "What was forgotten" not in (tmp_path / "run" / "report.html").read_text()
    events = (tmp_path / "run" / "events.jsonl").read_bytes()
    on = tutelage.train(make_recipe(recipe), out=str(tmp_path / "run"))  # finished: only this is left to do
    assert on["forgetting"]["rows"] > 0
    assert "What was forgotten" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == events
    assert read_json(tmp_path / "run" / "manifest.json")["status"] == "finished"


def test_text_that_a_chat_model_goes_on_training_on_is_measured_too(recipe: dict[str, Any], tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "apples and pears " * 20}) + "\n", encoding="utf-8")
    recipe |= {"task": "text", "data": {"train": str(texts)}, "optim": {"steps": 2, "batch_size": 1}}
    result = tutelage.train(make_recipe(recipe), out=str(tmp_path / "run"))
    assert set(result["forgetting"]["forgetting"]["probes"]) > {"general_text"}
    found = tutelage.evaluate(str(tmp_path / "run"), data=str(texts))
    assert set(found["forgetting"]["probes"]) == set(result["forgetting"]["forgetting"]["probes"])


def test_few_probes_ask_for_an_answer() -> None:
    asked = [len(rows) for rows in few().values() if any(isinstance(row, Request) for row in rows)]
    assert asked == [WRITTEN, WRITTEN]
