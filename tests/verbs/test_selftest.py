"""The verb: on tiny models without a recipe, on the recipe's own model and rows with one, and loud where it fails."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage import cli
from tutelage.errors import CheckFailedError
from tutelage.models.tiny import KINDS
from tutelage.train.selftest import execution
from tutelage.verbs import selftest as verb


def recipe_file(model: Path, data: Path, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(f"model: {model}\ndata: {data}\nmethod: {{kind: lora, rank: 4}}\nmax_tokens: 400\n".replace(
        f"data: {data}", f"data: {{train: {data}}}"
    ))  # fmt: skip
    return path


def test_without_a_recipe_all_families_are_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"llama", "qwen3", "gemma2", "mistral", "gpt2"} <= set(KINDS)
    monkeypatch.setattr(verb, "KINDS", ("gpt2", "mistral"))  # test_checks has the others
    said: list[str] = []
    result = tutelage.selftest(say=said.append)
    assert result["ok"]
    assert {(c["subject"], c["method"]) for c in result["checks"]} == {
        (f"tiny {kind}", method) for kind in ("gpt2", "mistral") for method in ("full", "lora")
    }
    assert len(said) == len(result["checks"]) > 30
    assert all(c["passed"] and c["difference"] <= c["bound"] for c in result["checks"])


def test_a_recipe_is_tested_on_its_own_model_and_rows(
    model_folder: Callable[[str], Path],
    chat_file: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = recipe_file(model_folder("gemma2"), chat_file(12), tmp_path)
    assert cli.main(["selftest", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {c["method"] for c in result["checks"]} == {"full", "lora"}
    assert all("2 layers" in c["subject"] for c in result["checks"])
    assert cli.main(["selftest", str(path)]) == 0
    assert re.search(r"all \d+ checks hold", capsys.readouterr().out)


def test_a_failing_check_exits_1_and_names_what_differs(
    model_folder: Callable[[str], Path],
    chat_file: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = execution.accumulate

    def wrong(state: Any, packs: list[Any]) -> tuple[Any, ...]:
        value, *rest = right(state, packs)
        return value * (1 + 1e-3 * len(packs)), *rest

    monkeypatch.setattr(execution, "accumulate", wrong)
    path = recipe_file(model_folder("llama"), chat_file(12), tmp_path)
    with pytest.raises(CheckFailedError, match=r"relative difference .* in loss"):
        tutelage.selftest(path)
    assert cli.main(["selftest", str(path)]) == 1
    error = capsys.readouterr().err
    assert "it does not hold that accumulation = one batch" in error
    assert "method full" in error
