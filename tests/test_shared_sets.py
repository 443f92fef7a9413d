"""The real data sets of the formats: each goes through preview and one training step, or is refused with its reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage.errors import DataError

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
TOOLS = {"kind": "chat", "chat_template": str(ROOT / "examples" / "templates" / "chatml_tools.jinja")}
BAKED = {"kind": "chat", "allow": ["one_template"]}
SETS = [
    ("alpaca/alpaca_en_demo/alpaca_en_demo.json", "alpaca", "chat"), ("chat/identity/identity.json", "alpaca", "chat"),
    ("dolly/local_training_6.json", "dolly", "chat"), ("dolly/local_training_9.json", "dolly", "chat"),
    ("prompt_response/dolly_hhrlhf/rows.jsonl", "gpt4all", BAKED), ("bench/dolly_train.jsonl", "messages", "chat"),
    ("bench/alpaca_train.jsonl", "messages", "chat"), ("chat/openai_toy_chat/toy_chat_fine_tuning.jsonl", "messages", "chat"),
    ("chat/sharegpt_dummy/dummy_conversation.json", "sharegpt", "chat"),
    ("alpaca/self_instruct_seed/seed_tasks.jsonl", "alpaca", "chat"),
    ("chat/glaive_toolcall_en_demo/glaive_toolcall_en_demo.json", "sharegpt", TOOLS),
]  # fmt: skip
REFUSED = [
    ("chat/oasst1_en_validation/en-validation.jsonl", "tree"),
    ("tag/wnut17/wnut17train.conll", "conll"),
]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")]


@pytest.mark.parametrize("name, format, task", SETS, ids=[name for name, _, _ in SETS])
def test_a_data_set_goes_through_preview_and_a_step(
    name: str, format: str, task: Any, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = tutelage.make_recipe(
        {
            "model": str(model_folder("llama")), "data": {"train": str(DATA / name)}, "task": task, "max_tokens": 512,
            "over_length": "truncate", "optim": {"steps": 1}, "precision": "fp32",
            "forgetting": False, "out": str(tmp_path / "run"),
        }
    )  # fmt: skip
    seen = tutelage.preview(recipe)
    assert seen["ok"]
    assert set(seen["data"]["formats"].values()) == {format}
    assert seen["target_tokens"] > 0
    assert tutelage.train(recipe)["steps"] == 1


@pytest.mark.parametrize("name, reason", REFUSED, ids=[name for name, _ in REFUSED])
def test_other_shapes_are_refused_with_the_reason(
    name: str, reason: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = tutelage.make_recipe({"model": str(model_folder("llama")), "data": {"train": str(DATA / name)}})
    with pytest.raises(DataError) as caught:
        tutelage.preview(recipe)
    assert reason in str(caught.value).lower()
    assert name.rpartition("/")[2] in str(caught.value)
