"""Every task x method x kind of model through the same checks: it learns eight rows; micro-batches and packing change
neither loss nor gradients; a run goes on bit for bit; what is saved, transformers and PEFT load to the same outputs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from tutelage.data.prepare import prepare
from tutelage.data.rows import Tagged
from tutelage.data.types import At
from tutelage.engine.nf4 import plain_values
from tutelage.errors import RecipeError
from tutelage.methods.qlora import quantised
from tutelage.recipe import LoraSpec, Recipe, make_recipe
from tutelage.runs import read_json
from tutelage.tasks import TASKS
from tutelage.train import checkpoint
from tutelage.train.loop import TrainState, accumulate, restore, training
from tutelage.train.material import Material, accepted, gather
from tutelage.train.outcome import write_model
from tutelage.train.setup import build_state, choose_plan

TASK: dict[str, Any] = {
    "classify": {"kind": "classify"}, "several": {"kind": "classify", "multi_label": True},
    "score": {"kind": "classify", "num_labels": 1}, "preference": {"kind": "classify", "num_labels": 1},
    "verbalised": {"kind": "classify", "verbalised": True, "instruction": "{text}"}, "tag": {"kind": "tag"},
    "extract": {"kind": "extract"}, "seq2seq": {"kind": "seq2seq", "max_target_tokens": 32}, "text": {"kind": "text"},
}  # fmt: skip
FITS = {
    "classify": ("bert", "llama"), "several": ("bert", "llama"), "score": ("bert", "llama"), "preference": ("bert", "llama"),
    "verbalised": ("llama",), "tag": ("bert", "llama"), "extract": ("bert",), "seq2seq": ("t5", "bart", "marian", "llama"),
    "text": ("bert", "llama"),
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"}, "half": {"kind": "half", "round": 2}, "lora": {"kind": "lora", "rank": 8, "alpha": 16},
    "qlora": {"kind": "qlora", "rank": 8, "alpha": 16},
    "dora": {"kind": "lora", "rank": 8, "alpha": 16, "dora": True},
    "pissa": {"kind": "lora", "rank": 8, "alpha": 8, "init": "pissa", "loraplus_ratio": 2},
}  # fmt: skip
ADAPTERS = ("lora", "qlora")
CASES = [
    (task, kind, method)
    for task, kinds in FITS.items()
    for kind in kinds
    for method in ("full", "half", "lora", "qlora")
]
CASES += [
    ("classify", "bert", "dora"), ("preference", "llama", "dora"), ("seq2seq", "bart", "dora"), ("seq2seq", "t5", "pissa"),
    ("tag", "bert", "pissa"), ("text", "llama", "pissa"),
    # a vocabulary for each language
    ("seq2seq", "marian-two", "full"), ("seq2seq", "marian-two", "lora"),
    # heads and positions of other encoders
    ("classify", "distilbert", "full"), ("classify", "roberta", "lora"), ("classify", "modernbert", "lora"),
    ("classify", "electra", "full"), ("tag", "distilbert", "lora"), ("tag", "roberta", "full"), ("tag", "modernbert", "full"),
    ("extract", "roberta", "full"),
]  # fmt: skip
LOADERS = {
    "causal": transformers.AutoModelForCausalLM, "masked": transformers.AutoModelForMaskedLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM, "classify": transformers.AutoModelForSequenceClassification,
    "tag": transformers.AutoModelForTokenClassification, "extract": transformers.AutoModelForQuestionAnswering,
}  # fmt: skip
every = pytest.mark.parametrize("task, kind, method", CASES, ids=["-".join(case) for case in CASES])

Made = Callable[[str], Path]


def recipe_for(task: str, kind: str, method: str, made: Made, rows_file: Made, **changes: Any) -> Recipe:
    rate = 1e-2 if METHODS[method]["kind"] in ADAPTERS else 3e-3
    values: dict[str, Any] = {
        "model": str(made(kind)), "task": TASK[task], "data": {"train": str(rows_file(task))}, "method": METHODS[method],
        "optim": {"steps": 40, "batch_size": 8, "learning_rate": rate, "warmup": 0.1},
        "max_tokens": 128, "precision": "fp32", "forgetting": False, "threads": 1,
    }  # fmt: skip
    return make_recipe(values | changes)


def build(recipe: Recipe, folder: Path) -> tuple[Material, TrainState]:
    material = gather(recipe, lambda text: None)
    return material, build_state(recipe, material, choose_plan(recipe), folder / "checkpoints")


def test_every_task_stands_here() -> None:
    assert {spec["kind"] for spec in TASK.values()} == set(TASKS) - {"chat"}  # chat has suites of its own


@every
def test_it_learns_eight_rows(task: str, kind: str, method: str, made: Made, rows_file: Made, tmp_path: Path) -> None:
    recipe = recipe_for(task, kind, method, made, rows_file)
    material, state = build(recipe, tmp_path)
    losses = [event.loss for event in training(state) if event.event == "step"]
    assert losses[-1] < 0.5 * losses[0], losses[::8]
    if task in ("classify", "verbalised", "tag", "extract"):
        rows = prepare(recipe.data, seed=recipe.seed, accepts=lambda source: accepted(recipe, source)).train
        predictions = material.task.predict(state.backbone, rows, state.plan)
        right = [p.output in p.texts if task == "extract" else p.output == p.reference for p in predictions]
        assert len(predictions) == 8
        assert sum(right) >= 6, predictions


def gradients(state: TrainState, layouts: list[Any]) -> tuple[float, dict[str, torch.Tensor]]:
    state.optimizer.zero_grad()
    loss, *_ = accumulate(state, layouts)
    found = {name: m.grad.double().clone() for name, m in state.optimizer.masters.items() if m.grad is not None}
    return loss, found


@every
def test_packing_and_accumulation_change_nothing(
    task: str, kind: str, method: str, made: Made, rows_file: Made, tmp_path: Path
) -> None:
    _, state = build(recipe_for(task, kind, method, made, rows_file), tmp_path)
    for _ in zip(range(2), training(state)):  # away from LoRA's zeros
        pass
    rows, plan = list(state.train_rows), state.plan
    alone = [layout for row in rows for layout in state.layouts_of([row], plan)]
    together = state.layouts_of(rows, plan)
    budget = sum(len(row.ids) + (0 if row.source is None else len(row.source)) for row in rows) // 3
    some = state.layouts_of(rows, replace(plan, tokens=budget, share_prefix=False))
    assert len(alone) == 8
    assert len(together) < len(some) <= 8
    loss, expected = gradients(state, alone)
    whole = torch.stack([g.norm() for g in expected.values()]).norm()
    for layouts in (together, some):
        other, found = gradients(state, layouts)
        assert other == pytest.approx(loss, rel=2e-5)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            error = (found[name] - gradient).norm() / torch.maximum(
                gradient.norm(), 2e-4 * whole
            )  # a key bias has none but noise
            assert error < 2e-4, f"{name}: {float(error):.1e}"


@every
def test_a_run_goes_on_bit_for_bit(
    task: str, kind: str, method: str, made: Made, rows_file: Made, tmp_path: Path
) -> None:
    optim = {"steps": 6, "batch_size": 3, "learning_rate": 1e-3}
    recipe = recipe_for(task, kind, method, made, rows_file, optim=optim, save={"every": 2, "keep": 9})
    _, whole = build(recipe, tmp_path / "whole")
    expected = [(e.step, e.loss, e.gradient_norm) for e in training(whole) if e.event == "step"]
    _, again = build(recipe, tmp_path / "again")
    restore(again, checkpoint.load(whole.store / "step-00000004"))
    assert [(e.step, e.loss, e.gradient_norm) for e in training(again) if e.event == "step"] == expected[4:]
    assert all(torch.equal(m, again.optimizer.masters[n]) for n, m in whole.optimizer.masters.items())


def test_noise_on_embeddings_is_for_models_with_one_stack(made: Made, rows_file: Made, tmp_path: Path) -> None:
    for task, kind in (("seq2seq", "t5"), ("tag", "bert")):
        optim = {"steps": 2, "batch_size": 8, "neftune_alpha": 5.0}
        recipe = recipe_for(task, kind, "lora", made, rows_file, optim=optim)
        if kind == "t5":
            with pytest.raises(RecipeError, match="not built for encoder-decoders") as caught:
                build(recipe, tmp_path)
            assert caught.value.problems[0].where == "optim.neftune_alpha"
        else:
            calm = recipe_for(task, kind, "lora", made, rows_file, optim={**optim, "neftune_alpha": None})
            losses = [
                next(e.loss for e in training(build(r, tmp_path)[1]) if e.event == "step") for r in (calm, recipe)
            ]
            assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.1)


def test_windows_of_little_room_share_at_most_half_of_it(made: Made, rows_file: Made) -> None:
    recipe = recipe_for("tag", "bert", "full", made, rows_file).model_copy(update={"max_tokens": 22})
    task: Any = gather(recipe, lambda text: None).task
    words = ("ada", "went", "to", "london") * 20
    found = task.windows_of(Tagged(words, ("O",) * 80, At("long", 1)))
    assert 2 < len(found) <= 12
    assert sorted(word for window in found for word in window.words) == list(range(80))


def test_a_threshold_for_a_label_that_is_none_is_refused(made: Made, rows_file: Made) -> None:
    recipe = recipe_for("several", "bert", "full", made, rows_file)
    spec: Any = recipe.task
    wrong = recipe.model_copy(update={"task": spec.model_copy(update={"thresholds": {"goood": 0.3}})})
    with pytest.raises(RecipeError, match="unknown label `goood`") as caught:
        gather(wrong, lambda text: None)
    assert "good" in str(caught.value.problems[0].fix)


def test_encoder_decoders_read_and_write_no_further_than_their_positions(made: Made, rows_file: Made) -> None:
    places = read_json(made("bart") / "config.json")["max_position_embeddings"]
    recipe = recipe_for("seq2seq", "bart", "full", made, rows_file).model_copy(update={"max_tokens": 9999})
    task: Any = gather(recipe, lambda text: None).task
    assert task.tokens.limit == places
    spec: Any = recipe.task
    long = recipe.model_copy(update={"task": spec.model_copy(update={"max_target_tokens": places + 1})})
    with pytest.raises(RecipeError, match=f"at most {places} tokens") as caught:
        gather(long, lambda text: None)
    assert caught.value.problems[0].where == "task.max_target_tokens"


@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_a_prefix_is_read_and_beams_are_saved_and_used(
    kind: str, made: Made, rows_file: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASK["seq2seq"], "prefix", "say: ")
    monkeypatch.setitem(TASK["seq2seq"], "num_beams", 3)
    monkeypatch.setitem(TASK["seq2seq"], "length_penalty", 0.5)
    recipe = recipe_for("seq2seq", kind, "full", made, rows_file, optim={"steps": 1, "batch_size": 8})
    material, state = build(recipe, tmp_path)
    task: Any = material.task
    assert all(task.tokens.shown(row.source.tolist()).startswith("say: ") for row in material.train.rows)
    rows = prepare(recipe.data, seed=recipe.seed, accepts=lambda source: accepted(recipe, source)).train
    asked: list[int] = []
    generate = type(state.backbone.model).generate
    monkeypatch.setattr(
        type(state.backbone.model), "generate",
        lambda model, **given: (asked.append(model.generation_config.num_beams), generate(model, **given))[1],
    )  # fmt: skip
    found = task.predict(state.backbone, rows[:2], state.plan)
    assert [one.input for one in found] == [row.source for row in rows[:2]]  # type: ignore[union-attr]
    assert set(asked) == {3}
    write_model(tmp_path, recipe, material, state, lambda text: None)
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "model")
    assert (settings.num_beams, settings.length_penalty, settings.max_new_tokens) == (3, 0.5, 32)


@pytest.mark.parametrize("key", ["dropout", "attention_dropout"])
def test_dropout_within_layers_is_for_encoders(key: str, made: Made, rows_file: Made, tmp_path: Path) -> None:
    optim = {"steps": 3, "batch_size": 8, key: 0.2}
    refused = (
        recipe_for("classify", "llama", "lora", made, rows_file, optim=optim),
        recipe_for("tag", "bert", "lora", made, rows_file, optim=optim).model_copy(
            update={"method": LoraSpec(rank=4, dropout=0.1)}
        ),
        recipe_for("tag", "bert", "lora", made, rows_file, optim=optim).model_copy(
            update={"method": LoraSpec(rank=4, dora=True)}
        ),
    )
    for recipe, why in zip(refused, ("for llama", "two kinds of dropout", "without DoRA")):
        with pytest.raises(RecipeError, match=why) as caught:
            build(recipe, tmp_path)
        assert caught.value.problems[0].where == f"optim.{key}"


@pytest.mark.parametrize("key", ["dropout", "attention_dropout"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_with_dropout_goes_on_bit_for_bit(
    method: str, key: str, made: Made, rows_file: Made, tmp_path: Path
) -> None:
    optim = {"steps": 4, "batch_size": 3, "learning_rate": 1e-3}
    calm, recipe = (
        recipe_for("tag", "bert", method, made, rows_file, optim={**optim, key: share}, save={"every": 2, "keep": 9})
        for share in (0.0, 0.3)
    )
    whole, still = build(recipe, tmp_path / "whole")[1], build(calm, tmp_path / "calm")[1]
    expected = [(e.step, e.loss, e.gradient_norm) for e in training(whole) if e.event == "step"]
    assert expected[0] != next((e.step, e.loss, e.gradient_norm) for e in training(still) if e.event == "step")
    _, again = build(recipe, tmp_path / "again")
    restore(again, checkpoint.load(whole.store / "step-00000002"))
    assert [(e.step, e.loss, e.gradient_norm) for e in training(again) if e.event == "step"] == expected[2:]


def run_alone(model: Any, material: Material) -> torch.Tensor:
    """What a model that transformers or PEFT loaded says of the first row."""
    row = material.train.rows[0]
    ids = torch.from_numpy(row.ids.astype("int64"))[None, : row.parts[0] if row.parts else None]
    given: dict[str, Any] = {"input_ids": ids}
    if row.types is not None:
        given["token_type_ids"] = torch.from_numpy(row.types.astype("int64"))[None, : ids.shape[1]]
    if row.source is not None:
        given = {"input_ids": torch.from_numpy(row.source.astype("int64"))[None], "decoder_input_ids": ids}
    with torch.no_grad():
        out = model.eval()(**given)
    return torch.stack((out.start_logits, out.end_logits)) if "start_logits" in out else out.logits


@every
def test_transformers_and_peft_load_what_is_saved(
    task: str, kind: str, method: str, made: Made, rows_file: Made, tmp_path: Path
) -> None:
    recipe = recipe_for(task, kind, method, made, rows_file, optim={"steps": 3, "batch_size": 8, "learning_rate": 5e-3})
    material, state = build(recipe, tmp_path)
    for _ in training(state):
        pass
    write_model(tmp_path, recipe, material, state, lambda text: None)
    expected = run_alone(state.backbone.model, material)
    folder, head = tmp_path / "model", material.task.head
    loader, names = LOADERS[head.kind], dict(enumerate(head.labels))
    labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}} if names else {}
    if METHODS[method]["kind"] in ADAPTERS:
        base = loader.from_pretrained(made(kind), dtype=torch.float32, **labels)
        for name, layer in quantised(state.backbone.model):  # the base that was trained on, as a plain one
            place = base.get_submodule(name.removesuffix(".base"))
            place.weight.data.copy_(plain_values(layer))
        model = peft.PeftModel.from_pretrained(base, str(folder))
        if task == "extract":  # PeftModelForQuestionAnswering.forward takes token types and leaves them out (peft 0.21)
            model = model.base_model
    else:
        model = loader.from_pretrained(folder, dtype=torch.float32)
        if names:
            assert model.config.id2label == names
    torch.testing.assert_close(run_alone(model, material), expected, rtol=1e-4, atol=1e-5)
    tokenizer = transformers.MarianTokenizer if kind.startswith("marian") else transformers.PreTrainedTokenizerFast
    tokenizer.from_pretrained(folder)
    assert read_json(folder / "task.json")["kind"] == TASK[task]["kind"]
    if head.kind == "seq2seq":
        assert read_json(folder / "generation_config.json")["max_new_tokens"] == 32
