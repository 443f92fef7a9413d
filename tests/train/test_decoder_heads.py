"""A decoder with a task's own head: what is planned without values reads the same token as what is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest

import tutelage


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_decoder_is_trained_to_classify(
    kind: str, method: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [f'{{"text": "is {n} even or odd", "label": "{("even", "odd")[n % 2]}"}}\n' for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(rows), "utf-8")
    totals = tutelage.train(
        tutelage.make_recipe({
            "model": str(model_folder(kind)), "task": "classify", "data": {"train": str(tmp_path / "rows.jsonl")},
            "method": method, "optim": {"steps": 8, "batch_size": 12, "learning_rate": 5e-3}, "precision": "fp32", "threads": 1,
            "out": str(tmp_path / "run"),
        })
    )  # fmt: skip
    assert totals["steps"] == 8
    scored = tutelage.evaluate(str(tmp_path / "run"), data=str(tmp_path / "rows.jsonl"), out=str(tmp_path / "scores"))
    assert scored["metrics"]
