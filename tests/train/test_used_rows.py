"""Training only the embedding rows that occur: the same run, with less memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.recipe import make_recipe
from tutelage.train import setup
from tutelage.train.loop import TrainState, training
from tutelage.train.material import gather
from tutelage.train.setup import build_state, choose_plan

Make = Callable[..., TrainState]


@pytest.fixture
def make(model_folder: Callable[[str], Path], tmp_path: Path) -> Make:
    """A function from recipe keys to a run in memory, of a classifier with an embedding of 512 rows."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "apple {i % 7} pear", "label": "{"ab"[i % 2]}"}}\n' for i in range(24)))

    def made(**changes: Any) -> TrainState:
        values = {
            "model": str(model_folder("qwen2")), "task": "classify", "data": {"train": str(rows)}, "method": "full",
            "optim": {"steps": 5, "batch_size": 4, "learning_rate": 1e-3}, "precision": "fp32", "forgetting": False, "threads": 1,
        }  # fmt: skip
        recipe = make_recipe(values | changes)
        return build_state(recipe, gather(recipe, lambda text: None), choose_plan(recipe), tmp_path / "checkpoints")

    return made


def test_the_rows_that_occur_train_as_if_all_did(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = make()
    (name,) = sparse.optimizer.rows
    assert len(sparse.optimizer.masters[name]) < 60
    monkeypatch.setattr(setup, "used_rows", lambda *given: {})
    dense = make()
    before = dense.optimizer.parameters[name].detach().clone()
    losses = [[e.loss for e in training(state) if e.event == "step"] for state in (sparse, dense)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    after = [state.optimizer.parameters[name].detach() for state in (sparse, dense)]
    torch.testing.assert_close(after[0], after[1], rtol=1e-5, atol=1e-7)
    still = torch.ones(512, dtype=torch.bool)
    still[sparse.optimizer.rows[name]] = False
    assert torch.equal(after[1][still], before[still]), "AdamW moves no row that has no gradient"
    assert torch.equal(after[0][still], before[still])
    assert not torch.equal(after[0][~still], before[~still])


def test_weight_decay_and_a_tied_head_train_every_row(make: Make) -> None:
    assert not make(optim={"steps": 1, "weight_decay": 0.1}).optimizer.rows
    assert not make(method="lora").optimizer.rows


def test_a_tied_head_trains_every_row(make: Make, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    rows = tmp_path / "chat.jsonl"
    rows.write_text('{"prompt": "Hi?", "response": "Hello there."}\n' * 4)
    assert not make(model=str(model_folder("llama")), task="chat", data={"train": str(rows)}).optimizer.rows
    assert make(model=str(model_folder("qwen2")), task="chat", data={"train": str(rows)}).optimizer.rows
