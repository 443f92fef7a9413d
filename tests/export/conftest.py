"""One tiny LoRA run that the export tests share."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tutelage


@pytest.fixture(scope="session")
def lora_run(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with an adapter and held-out rows. Do not write into it."""
    folder = tmp_path_factory.mktemp("lora-run")
    questions = ["Why is the sky blue?", "What is water made of?", "Do plants need light?", "How many apples?"]
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{questions[i % 4]} {i}"},
                {"role": "assistant", "content": f"Yes, {i}."},
            ]
        }
        for i in range(32)
    ]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = tutelage.make_recipe(
        {
            "model": str(model_folder("llama")), "data": {"train": str(folder / "chat.jsonl"), "validation": 0.25},
            "method": {"kind": "lora", "rank": 4, "alpha": 16}, "max_tokens": 300, "precision": "fp32",
            "forgetting": False, "threads": 1,
            "optim": {"steps": 6, "batch_size": 8, "learning_rate": 5e-3}, "out": str(folder / "run"),
        }
    )  # fmt: skip
    tutelage.train(recipe)
    return folder / "run"
