"""Recipes: short ones are enough, overrides win, and every wrong key is named with its fix."""

from pathlib import Path
from typing import Any

import pytest

from tutelage.errors import MissingInputError, RecipeError
from tutelage.recipe import as_yaml, make_recipe, read_recipe

SHORT = "model: m\ndata: {train: a.jsonl}\n"
LABELS = SHORT + "task: {kind: classify, "


def recipe(tmp_path: Path, text: str, *overrides: str) -> Any:
    path = tmp_path / "support.yaml"
    path.write_text(text)
    return read_recipe(path, overrides)


def test_a_short_recipe_gets_its_defaults(tmp_path: Path) -> None:
    made = recipe(tmp_path, SHORT)
    assert made.data.train[0].path == "a.jsonl"
    assert made.method.kind == "lora"
    assert made.out == "runs/support"
    assert made.optim.batch_size == 8


def test_the_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    made = recipe(tmp_path, SHORT + "method: full\nvalidate: {patience: 2}\noptim: {learning_rate: 1e-4}\n")
    path = tmp_path / "resolved.yaml"
    path.write_text(as_yaml(made))
    assert read_recipe(path) == made
    assert made.optim.learning_rate == 1e-4  # YAML 1.1 would read a string


def test_overrides_are_yaml_and_reach_into_short_forms(tmp_path: Path) -> None:
    made = recipe(
        tmp_path, SHORT + "method: lora\n", "method.rank=4", "optim.learning_rate=5e-5", "data.train=[b.jsonl, c.jsonl]"
    )
    assert (made.method.rank, made.optim.learning_rate) == (4, 5e-5)
    assert [source.path for source in made.data.train] == ["b.jsonl", "c.jsonl"]


@pytest.mark.parametrize("text, numbers", [("7", {7}), ("[0, 2-4]", {0, 2, 3, 4}), ("1 - 2", {1, 2}), ("null", None)])
def test_layers_are_numbers_and_ranges(text: str, numbers: set[int] | None, tmp_path: Path) -> None:
    assert recipe(tmp_path, SHORT + "method: lora\n", f"method.layers={text}").method.layer_numbers() == numbers


WRONG = [
    (SHORT + "optim: {learning_rat: 1}\n", "unknown key `optim.learning_rat`", "did you mean `learning_rate`"),
    (SHORT + "num_train_epochs: 1\n", "unknown key `num_train_epochs`", "`optim.epochs`"),
    (SHORT + "method: {kind: lora, r: 4}\n", "unknown key `method.r`", "`rank`"),
    (SHORT + "method: {kind: lora, use_dora: true}\n", "unknown key `method.use_dora`", "`method.dora`"),
    (SHORT + "method: {kind: lora, doora: true}\n", "unknown key `method.doora`", "did you mean `dora`"),
    (SHORT + "method: {kind: lora, init: pisa}\n", "`method.init`", "'pissa'"),
    (
        SHORT + "method: {kind: lora, init: pissa, adapter: a}\n",
        "init: pissa has no effect with `adapter`",
        "leave one out",
    ),
    (SHORT + "method: {kind: lora, layers: [0, 3-1]}\n", "layers: `3-1` is not a range", "20-29"),
    (SHORT + "method: {kind: lora, layers: []}\n", "layers: name at least one", ""),
    (SHORT + "method: {kind: lora, layers: [-1]}\n", "layers: -1 is no layer", "from 0"),
    (SHORT + "method: {kind: lora, loraplus_ratio: 0.5}\n", "`method.loraplus_ratio`", "greater than or equal to 1"),
    (SHORT + "method: {kind: full, loraplus_ratio: 4}\n", "unknown key `method.loraplus_ratio`", ""),
    (SHORT + "optim: {neftune_noise_alpha: 5}\n", "unknown key", "`optim.neftune_alpha`"),
    (SHORT + "optim: {hidden_dropout_prob: 0.1}\n", "unknown key", "`optim.dropout`"),
    (SHORT + "optim: {attention_probs_dropout_prob: 0.1}\n", "unknown key", "`optim.attention_dropout`"),
    (SHORT + "optim: {dropout: 1.0}\n", "optim.dropout", "less than 1"),
    (SHORT + "method: {kind: lora, targets: mlp}\n", "unknown key", "`target_modules`"),
    (SHORT + "method: {kind: lorra}\n", "`method.kind` must be one of full, half, lora", ""),
    (SHORT + "method: {kind: full, rank: 4}\n", "unknown key `method.rank`", ""),
    (SHORT + "optim: {learning_rate: fast}\n", "optim.learning_rate", "'fast'"),
    (SHORT + "optim: {epochs: -1}\n", "optim.epochs", "greater than 0"),
    (SHORT + "wandb_api_key: x\n", "`wandb_api_key` looks like a secret", "environment"),
    (SHORT + "seed: 1\nseed: 2\n", "not YAML", "stands twice"),
    ("model: m\n", "`data` is missing", "add `data:`"),
    ("model: m\ndata: {train: []}\n", "at least one file", ""),
    ("model: m\ndata: {train: a, validation: 1.5}\n", "validation", "below 1"),
    ("model: m\ndata: {train: {path: a, wight: 2}}\n", "unknown key", "wight"),
    ("- a\n- b\n", "a mapping of keys", "model:"),
    ("model: [\n", "not YAML", ""),
    (SHORT + "precision: int8\n", "precision", "int8"),
    (
        SHORT + "method: {kind: lora, target_modules: 3}\n",
        "be 'all-linear', 'attention' or 'mlp' or a valid list, and is 3",
        "",
    ),
    (SHORT + "batch: {tokens: x}\n", "`batch.tokens`: Input should be a valid integer or 'auto', and is 'x'", ""),
    (
        LABELS + "class_weights: blanced}\n",
        "`task.class_weights`: Input should be 'balanced' or a valid dictionary",
        "",
    ),
    (
        LABELS + "class_weights: {a: -1}}\n",
        "`task.class_weights.a`: Input should be greater than or equal to 0",
        "is -1",
    ),
    (LABELS + "thresholds: {a: 3}}\n", "`task.thresholds.a`: Input should be less than or equal to 1, and is 3", ""),
    (LABELS + "thresholds: -1}\n", "`task.thresholds`: Input should be greater than or equal to 0", "is -1"),
    (
        "model: m\ndata: {train: [{path: a, task: {kind: tag, strid: 2}}]}\n",
        "unknown key `data.train.0.task.strid`",
        "`stride`",
    ),
]


@pytest.mark.parametrize("text, what, also", WRONG, ids=[what for _, what, _ in WRONG])
def test_a_wrong_recipe_names_the_key_and_the_fix(text: str, what: str, also: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, text)
    assert what in str(caught.value)
    assert also in str(caught.value)
    assert caught.value.exit_code == 78
    assert "support.yaml" in str(caught.value)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, SHORT + "optim: {epochs: -1, batch_size: 0}\nfoo: 1\n")
    assert caught.value.total == 3


@pytest.mark.parametrize("override", ["optim.epochs", "=3", "model.x=1", "optim.epochs=[", "optim.epoch=2"])
def test_a_wrong_override_is_named(override: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        recipe(tmp_path, SHORT, override)


def test_a_missing_recipe_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        read_recipe(tmp_path / "no.yaml")


def test_rows_in_memory(tmp_path: Path) -> None:
    made = make_recipe({"model": "m", "data": {"train": [{"prompt": "a", "response": "b"}]}})
    assert made.data.rows == ({"prompt": "a", "response": "b"},)
    assert "<1 rows in memory>" in as_yaml(made)
