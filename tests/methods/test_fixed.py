"""Computed tables do not train, whatever a loader says of them."""

from pathlib import Path

import pytest
import torch

from tests.marian import make_marian
from tutelage.methods.fixed import freeze_tables
from tutelage.methods.types import METHODS
from tutelage.models.load import load_with_head
from tutelage.models.types import HeadWanted
from tutelage.recipe import FullSpec, HalfSpec

TABLES = {"model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"}


@pytest.mark.parametrize("spec", [FullSpec(), FullSpec(train=["embed_positions", "fc1"]), HalfSpec(round=1)], ids=str)
def test_sinusoidal_positions_stay_as_they_are(spec: FullSpec | HalfSpec, tmp_path: Path) -> None:
    make_marian(tmp_path, ["a boat by the sea"] * 5, ["ein Boot am Meer"] * 5)
    model = load_with_head(tmp_path, HeadWanted("seq2seq"), dtype=torch.float32)
    assert freeze_tables(model) == TABLES
    trainable = METHODS.get(spec.kind).prepare(model, spec, seed=0)
    for number in range(4 if trainable.rounds else 1):
        entered = trainable.rounds.enter(number) if trainable.rounds else trainable
        assert not TABLES & (entered.parameters.keys() | entered.resting.keys())
        assert {name for name, p in model.named_parameters() if p.requires_grad} == set(entered.parameters)
