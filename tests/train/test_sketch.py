"""The sketch of a run is the run: same plan, same parameters, and what it says is held is what is held."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.engine.memory import saved_bytes
from tutelage.models.load import load_model
from tutelage.recipe import Recipe, make_recipe
from tutelage.train.loop import accumulate
from tutelage.train.material import gather
from tutelage.train.setup import build_state, choose_plan
from tutelage.train.sketch import fullest_rows, fullest_step, lengths_of, longest_rows, sketched

ModelFolder = Callable[[str], Path]
ChatFile = Callable[[int], Path]


def recipe_for(folder: Path, rows: Path, method: str = "lora", precision: str = "fp32") -> Recipe:
    return make_recipe({
        "model": str(folder), "data": {"train": str(rows)}, "method": method, "precision": precision, "threads": 1,
        "optim": {"steps": 5, "batch_size": 3}, "max_tokens": 400,
    })  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma2", "gpt2"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_is_built_as_the_run_is(
    model_folder: ModelFolder, chat_file: ChatFile, tmp_path: Path, kind: str, method: str
) -> None:
    recipe = recipe_for(model_folder(kind), chat_file(12), method)
    material, plan = gather(recipe, lambda text: None), choose_plan(recipe)
    state, ours = build_state(recipe, material, plan, tmp_path), sketched(recipe, material, plan).state
    assert {n: p.shape for n, p in ours.trainable.parameters.items()} == {
        n: p.shape for n, p in state.trainable.parameters.items()
    }
    assert ours.trainable.total == state.trainable.total
    assert replace(ours.plan, device="cpu") == state.plan
    for name in ("packs", "plain_logits", "shares", "scale", "softcap", "notes"):
        assert getattr(ours.backbone, name) == getattr(state.backbone, name), name
    assert (ours.backbone.stack is None) == (state.backbone.stack is None)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_it_holds_is_what_the_run_holds(
    model_folder: ModelFolder, chat_file: ChatFile, tmp_path: Path, method: str, precision: str
) -> None:
    recipe = recipe_for(model_folder("llama"), chat_file(12), method, precision)
    material, plan = gather(recipe, lambda text: None), choose_plan(recipe)
    sketch, state = sketched(recipe, material, plan), build_state(recipe, material, plan, tmp_path)
    rows = fullest_rows(state)
    walk = sketch.walk(rows)
    state.optimizer.reserve()
    pack = state.layouts_of(rows, state.plan)[0]
    with saved_bytes(state.backbone.model) as kept:
        result = state.loss_of(state.backbone, pack)
    accumulate(state, [pack])
    trained = [m.grad for m in state.optimizer.masters.values() if m.grad is not None]
    weights = sum(p.nbytes for p in state.backbone.model.parameters())
    assert walk.weights == pytest.approx(weights, abs=2**19)  # and the largest mask
    assert walk.optimizer == pytest.approx(state.optimizer.bytes(), rel=1e-3)
    if method == "full":  # else the step holds most before the first gradient
        assert sum(g.nbytes for g in trained) <= walk.gradients + walk.working + 64
    assert kept.bytes <= walk.bytes - walk.weights - walk.optimizer
    assert result.total.requires_grad
    assert walk.tokens == len(pack.ids)
    sketch.walks.clear()
    assert sketch.walk(rows) == walk  # nothing is left behind


def test_operations_are_those_of_the_products(model_folder: ModelFolder, chat_file: ChatFile, tmp_path: Path) -> None:
    """Forward, and two products per trained weight back: at least 6 per parameter of the layers and token."""
    recipe = recipe_for(model_folder("llama"), chat_file(12), "full")
    sketch = sketched(recipe, gather(recipe, lambda text: None), choose_plan(recipe))
    rows = fullest_rows(sketch.state)
    inside = sum(p.numel() for n, p in sketch.state.trainable.parameters.items() if ".layers." in n and p.dim() > 1)
    packs = sketch.state.layouts_of(rows, sketch.state.plan)
    least = 6 * inside * sum(len(p.ids) for p in packs)
    assert 0.8 * least < sketch.walk(rows).operations < 4 * least


def test_the_fullest_step_is_found_in_the_order_of_the_run(
    model_folder: ModelFolder, chat_file: ChatFile, tmp_path: Path
) -> None:
    recipe = recipe_for(model_folder("llama"), chat_file(12))
    sketch = sketched(recipe, gather(recipe, lambda text: None), choose_plan(recipe))
    state, lengths = sketch.state, lengths_of(sketch.state.train_rows)
    sums = [lengths[state.batches.of_step(step)].sum() for step in range(state.total_steps)]
    assert sums[fullest_step(state)] == max(sums)
    assert [len(row.ids) for row in longest_rows(state)] == sorted(lengths, reverse=True)[:3]


def test_a_model_in_memory_is_not_copied(model_folder: ModelFolder, chat_file: ChatFile, tmp_path: Path) -> None:
    recipe = recipe_for(model_folder("llama"), chat_file(12))
    material, plan = gather(recipe, lambda text: None), choose_plan(recipe)
    loaded = load_model(model_folder("llama"), dtype=torch.float32)
    before = {name: p.clone() for name, p in loaded.named_parameters()}
    sketch = sketched(recipe, replace(material, loaded=loaded), plan)
    assert all(p.is_meta for p in sketch.state.backbone.model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in loaded.named_parameters())
    assert sketch.walk(fullest_rows(sketch.state)).bytes > 0


def test_weights_in_nf4_count_and_the_whole_ones_before_them_do_not(
    model_folder: ModelFolder, chat_file: ChatFile, tmp_path: Path
) -> None:
    recipe = recipe_for(model_folder("llama"), chat_file(12), "qlora")
    material, plan = gather(recipe, lambda text: None), choose_plan(recipe)
    sketch, state = sketched(recipe, material, plan), build_state(recipe, material, plan, tmp_path)
    model = state.backbone.model
    assert sketch.parameter_bytes == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert sketch.parameter_bytes > sum(p.nbytes for p in model.parameters())
    rows = fullest_rows(state)
    first = sketch.walk(rows)
    sketch.walks.clear()
    assert sketch.walk(rows) == first
