"""Continuing from an adapter through the train verb: it starts where the adapter ended, and trains nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tutelage
from tutelage.errors import ChangedRunError, RecipeError
from tutelage.methods.adapter_file import CONFIG, WEIGHTS

MakeRecipe = Callable[..., tutelage.Recipe]


@pytest.fixture
def recipe(model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path) -> MakeRecipe:
    """A function from a run's name, its method's keys and other keys to its recipe."""

    def make(name: str, method: dict[str, Any], **changes: Any) -> tutelage.Recipe:
        values: dict[str, Any] = {
            "model": str(model_folder("llama")), "data": {"train": str(chat_file(24)), "validation": 0.2},
            "method": {"kind": "lora", "rank": 4, "alpha": 8, **method}, "max_tokens": 400, "precision": "fp32",
            "forgetting": False, "threads": 1,
            "optim": {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}, "out": str(tmp_path / name),
        }  # fmt: skip
        return tutelage.make_recipe(values | changes)

    return make


def test_a_run_goes_on_where_another_runs_adapter_ended(recipe: MakeRecipe, tmp_path: Path) -> None:
    first = tutelage.train(recipe("first", {}))
    adapter = tmp_path / "first" / "model"
    held = load_file(adapter / WEIGHTS)
    second = tutelage.train(recipe("second", {"adapter": str(adapter)}))
    assert second["validation"]["before"]["loss"] == first["validation"]["after"]["loss"]
    assert second["validation"]["after"]["loss"] < second["validation"]["before"]["loss"]
    assert second["trainable_parameters"] == first["trainable_parameters"]
    tuned = load_file(tmp_path / "second" / "model" / WEIGHTS)
    assert tuned.keys() == held.keys()
    assert all(not torch.equal(tuned[name], held[name]) for name in held)
    for name, tensor in load_file(adapter / WEIGHTS).items():
        assert torch.equal(tensor, held[name])  # the adapter that it started from is left as it was
    first_config, second_config = (
        peft.PeftConfig.from_pretrained(str(tmp_path / name / "model")).to_dict() for name in ("first", "second")
    )
    assert first_config == second_config


def test_a_run_goes_on_from_an_adapter_of_peft(recipe: MakeRecipe, model_folder: Any, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    model.save_pretrained(tmp_path / "peft")
    tutelage.train(recipe("run", {"adapter": str(tmp_path / "peft"), "target_modules": ["q_proj", "v_proj"]}))
    assert load_file(tmp_path / "run" / "model" / WEIGHTS).keys() == load_file(tmp_path / "peft" / WEIGHTS).keys()
    with pytest.raises(RecipeError, match="target_modules") as caught:
        tutelage.train(recipe("other", {"adapter": str(tmp_path / "peft"), "target_modules": ["q_proj"]}))
    assert "v_proj" in str(caught.value)
    assert not (tmp_path / "other" / "events.jsonl").exists()


def test_an_adapter_that_changed_in_between_is_another_run(recipe: MakeRecipe, tmp_path: Path) -> None:
    tutelage.train(recipe("first", {}))
    adapter = tmp_path / "first" / "model"
    spec = recipe("second", {"adapter": str(adapter)})
    tutelage.train(spec)
    held = load_file(adapter / WEIGHTS)
    save_file({name: tensor * 2 for name, tensor in held.items()}, adapter / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ChangedRunError, match=r"model\.adapter"):
        tutelage.train(spec)
    assert (adapter / CONFIG).is_file()
