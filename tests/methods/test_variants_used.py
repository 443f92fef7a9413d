"""Variants of LoRA through the verbs: trained, evaluated, exported and served; and adapters that PEFT made, likewise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import tutelage
from tutelage.methods.opening import load_located, locate
from tutelage.runs import MANIFEST, read_json
from tutelage.serve.limits import Limits
from tutelage.serve.served import open_served

IDS = torch.tensor([[1, 50, 60, 70, 80, 90, 2, 1, 33, 44, 55]])
METHODS: dict[str, dict[str, Any]] = {
    "dora": {"dora": True}, "pissa": {"init": "pissa"}, "part": {"target_modules": "mlp", "layers": "1-1", "rslora": True},
}  # fmt: skip
MakeRecipe = Callable[..., tutelage.Recipe]


@pytest.fixture
def recipe(model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path) -> MakeRecipe:
    def make(name: str, method: dict[str, Any], **optim: Any) -> tutelage.Recipe:
        values: dict[str, Any] = {
            "model": str(model_folder("llama")), "data": {"train": str(chat_file(24)), "validation": 0.2},
            "method": {"kind": "lora", "rank": 4, "alpha": 8, **method}, "max_tokens": 400, "precision": "fp32", "threads": 1,
            "optim": {"steps": 4, "batch_size": 4, "learning_rate": 5e-3, **optim}, "out": str(tmp_path / name),
        }  # fmt: skip
        return tutelage.make_recipe(values)

    return make


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits.double()  # type: ignore[no-any-return]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def used(place: str, held_out: Path, folder: Path, *, trained: torch.Tensor) -> None:
    """Evaluate, export and serve what lies at `place`; each computes what was trained."""
    assert difference(logits(load_located(locate(place), torch.float32).model), trained) <= 1e-5
    scored = tutelage.evaluate(
        place, data=str(held_out), skip_forgetting=True, max_tokens=4, out=str(folder / "scores")
    )
    assert "loss" in str(scored["metrics"])
    for kind in ("merged", "peft"):
        result = tutelage.export(place, to=kind, out=str(folder / kind), prompts=3, max_tokens=6, texts=20)
        assert result["parity"]["agreement"] == 1.0
        again = logits(load_located(locate(str(folder / kind)), torch.float32).model)
        assert difference(again, trained) <= 1e-5
    served = open_served([f"tuned={place}"], dtype=torch.float32, limits=Limits(), base=False, say=lambda text: None)
    assert "tuned" in served
    for engine in {id(each.engine): each.engine for each in served.values()}.values():
        engine.stop()


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_evaluated_exported_and_served(
    name: str, recipe: MakeRecipe, chat_file: Callable[[int], Path], tmp_path: Path
) -> None:
    result = tutelage.train(recipe("run", METHODS[name]))
    assert result["validation"]["after"]["loss"] < result["validation"]["before"]["loss"]
    base = AutoModelForCausalLM.from_pretrained(str(recipe("x", {}).model), dtype=torch.float32)
    theirs = logits(peft.PeftModel.from_pretrained(base, str(tmp_path / "run" / "model")))
    used(str(tmp_path / "run"), chat_file(8), tmp_path, trained=theirs)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"init_lora_weights": "pissa"}], ids=["dora", "pissa"])
def test_an_adapter_of_peft_is_used_and_trained_on(
    options: dict[str, Any], recipe: MakeRecipe, chat_file: Callable[[int], Path], tmp_path: Path
) -> None:
    name = str(recipe("x", {}).model)
    base = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], **options)
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data *= 0.8 + 0.4 * torch.rand_like(parameter)
    model.save_pretrained(tmp_path / "theirs")
    model.peft_config["default"].base_model_name_or_path = name
    used(str(tmp_path / "theirs"), chat_file(8), tmp_path, trained=logits(model))
    method = {"adapter": str(tmp_path / "theirs"), "dora": "use_dora" in options}
    result = tutelage.train(recipe("on", method))
    assert result["validation"]["after"]["loss"] < result["validation"]["before"]["loss"]
    again = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    theirs = logits(peft.PeftModel.from_pretrained(again, str(tmp_path / "on" / "model")))
    assert difference(logits(load_located(locate(str(tmp_path / "on")), torch.float32).model), theirs) <= 1e-5


def test_dora_says_that_the_models_own_layers_run(recipe: MakeRecipe) -> None:
    said: list[str] = []
    tutelage.train(recipe("dora", {"dora": True}), say=said.append)
    assert [line for line in said if "DoRA" in line and "own forward" in line]
    said.clear()
    tutelage.train(recipe("lora", {}), say=said.append)
    assert not [line for line in said if "own forward" in line]


def test_with_noise_no_prefix_is_shared(recipe: MakeRecipe, tmp_path: Path) -> None:
    tutelage.train(recipe("calm", {}))
    tutelage.train(recipe("noisy", {}, neftune_alpha=5.0))
    plans = [read_json(tmp_path / name / MANIFEST)["plan"]["share_prefix"] for name in ("calm", "noisy")]
    assert plans == [True, False]
