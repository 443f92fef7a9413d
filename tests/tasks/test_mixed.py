"""Several tasks in one model: each source's rows go their own way, and weights mean what the recipe says."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tutelage.data.prepare import prepare
from tutelage.encode.batches import Batches
from tutelage.errors import RecipeError
from tutelage.evaluate.learning_curve import smaller
from tutelage.recipe import make_recipe
from tutelage.tasks.batching import varied
from tutelage.tasks.mixed import open_task
from tutelage.tasks.types import Opening
from tutelage.train.material import accepted, gather
from tutelage.train.setup import identity

Folders = Callable[[str], Path]


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> list[dict[str, object]]:
    chats = write(tmp_path / "chat.jsonl", [{"prompt": f"q {i}", "response": f"a {i}"} for i in range(4)])
    labels = write(
        tmp_path / "labels.csv.jsonl", [{"text": f"t {i}", "label": "yes" if i % 2 else "no"} for i in range(4)]
    )
    pairs = write(tmp_path / "pairs.jsonl", [{"source": f"s {i}", "target": "apples and pears " * 3} for i in range(4)])
    return [
        {"path": chats}, {"path": labels, "loss": "examples", "weight": 2, "task": {"kind": "classify", "verbalised": True}},
        {"path": pairs, "loss": "examples", "weight": 0.5, "task": {"kind": "seq2seq", "instruction": "Do: {source}"}},
    ]  # fmt: skip


def test_rows_of_three_tasks_train_one_model(sources: list[dict[str, object]], model_folder: Folders) -> None:
    recipe = make_recipe({"model": str(model_folder("llama")), "data": {"train": sources}, "max_tokens": 200})
    material = gather(recipe, lambda text: None)
    rows = list(material.train.rows)
    assert len(rows) == 12
    sums = [float(row.weights[1:].sum()) for row in rows]
    assert all(total > 1.5 for total in sums[:4])  # tokens
    assert sums[4:] == pytest.approx([1.0] * 8)  # examples
    assert sorted(Counter(material.row_weights).items()) == [(0.5, 4), (1.0, 4), (2.0, 4)]
    assert material.contract.rows == 12
    assert all(check.passed for check in material.contract.checks)
    assert "mix" in identity(recipe, material)["data"]


def test_different_heads_do_not_mix(sources: list[dict[str, object]], model_folder: Folders) -> None:
    mixed = [sources[0], {**sources[1], "task": {"kind": "classify"}}]
    recipe = make_recipe({"model": str(model_folder("llama")), "data": {"train": mixed}})
    with pytest.raises(RecipeError, match="different heads"):
        gather(recipe, lambda text: None)


def test_masked_words_are_drawn_anew_in_each_epoch_also_where_rows_count_one_each(
    tmp_path: Path, opening: Callable[..., Opening]
) -> None:
    texts = write(tmp_path / "texts.jsonl", [{"text": "the sky is blue in london " * 4} for _ in range(3)])
    data = {"train": [{"path": texts, "loss": "examples"}]}
    recipe = make_recipe({"model": "m", "data": data, "task": "text", "max_tokens": 60})
    prepared = prepare(recipe.data, seed=0, accepts=lambda source: accepted(recipe, source))
    task = open_task(recipe.task, prepared.sources, opening(prepared.train))
    row = task.fit(prepared.train).rows[0]
    first, second = (varied(task, row, 0, epoch, 0) for epoch in (0, 1))
    assert first.ids.tolist() != second.ids.tolist()
    for each in (first, second):
        assert each.targets is not None
        assert float(each.targets.weights.sum()) == pytest.approx(1.0)
    assert varied(task, row, 0, 1, 0).ids.tolist() == second.ids.tolist()


def test_a_mixture_without_masked_words_varies_nothing(sources: list[dict[str, object]], model_folder: Folders) -> None:
    recipe = make_recipe({"model": str(model_folder("llama")), "data": {"train": sources}, "max_tokens": 200})
    material = gather(recipe, lambda text: None)
    row = material.train.rows[5]
    assert varied(material.task, row, 0, 1, 5) is row


def test_a_share_of_the_rows_keeps_what_each_source_is_set_to(
    sources: list[dict[str, object]], model_folder: Folders, tmp_path: Path
) -> None:
    renamed = write(tmp_path / "asked.jsonl", [{"question": f"q {i}", "reply": f"a {i}"} for i in range(8)])
    columns = {"prompt": "question", "response": "reply"}
    data = {"train": [{"path": renamed, "columns": columns, "weight": 3}, *sources[1:]], "validation": 0.25}
    recipe = make_recipe({"model": str(model_folder("llama")), "data": data, "max_tokens": 200})
    whole = gather(recipe, lambda text: None)
    half, count, of = smaller(recipe, 0.5, tmp_path / "half")
    part = gather(half, lambda text: None)
    assert of == len(whole.train.rows)
    assert count == len(part.train.rows) == round(of / 2)
    for source, before in zip(half.data.train, recipe.data.train, strict=True):
        assert source.model_dump(exclude={"path", "task"}) == before.model_dump(exclude={"path", "task"})
    assert half.data.train[1].task.labels == ["no", "yes"]  # of all rows
    texts = [{bytes(row.ids) for row in each.rows} for each in (part.train, whole.train)]
    assert texts[0] < texts[1]
    assert sorted(bytes(row.ids) for row in part.validation.rows) == sorted(bytes(r.ids) for r in whole.validation.rows)
    assert set(part.row_weights) <= {0.5, 2.0, 3.0}


def test_weights_are_how_often_a_row_comes() -> None:
    batches = Batches(8, 3, 0, (2.0, 2.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5))
    assert batches.examples == 8
    assert batches.per_epoch == 3
    seen: Counter[int] = Counter()
    for epoch in range(40):
        order = batches.order(epoch).tolist()
        counts = Counter(order)
        assert [counts[row] for row in range(4)] == [2, 2, 1, 1]
        assert sum(counts[row] for row in range(4, 8)) == 2
        seen.update(order)
    assert all(8 <= seen[row] <= 32 for row in range(4, 8))
    assert Batches(5, 2, 3).order(1).tolist() == Batches(5, 2, 3, ()).order(1).tolist()


def test_general_rows_are_replayed_by_weight_in_a_chat_run(tmp_path: Path, model_folder: Folders) -> None:
    own = write(tmp_path / "own.jsonl", [{"prompt": f"q {i}", "response": f"a {i}"} for i in range(12)])
    general = write(tmp_path / "general.jsonl", [{"prompt": f"g {i}", "response": f"h {i}"} for i in range(8)])
    text = tmp_path / "general.txt"
    text.write_text("".join(f"water and air and light number {i}\n\n" for i in range(8)), encoding="utf-8")
    train = [
        own, {"path": general, "weight": 0.25}, {"path": str(text), "weight": 0.5, "task": "text"},
    ]  # fmt: skip
    recipe = make_recipe({"model": str(model_folder("llama")), "data": {"train": train}, "max_tokens": 200})
    material = gather(recipe, lambda text: None)
    rows = list(material.train.rows)
    batches = Batches(len(rows), 4, 0, material.row_weights)
    epochs = []
    for epoch in range(4):
        steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        epochs.append([rows[i].at for step in steps for i in batches.of_step(step)])
    for drawn in epochs:
        assert Counter(at.source for at in drawn) == {own: 12, general: 2, str(text): 4}
        assert len(set(drawn)) == len(drawn)
    assert len({at.row for drawn in epochs for at in drawn if at.source == str(text)}) > 4  # others in each epoch
