"""A config that says another model than its weights is refused before memory is taken."""

import json
import time
from pathlib import Path

import pytest
import torch

from tutelage.errors import ModelError
from tutelage.models.fit import check_fit
from tutelage.models.load import load_model


def put(folder: Path, **keys: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))


def test_a_sound_folder_fits(tiny_copy: Path) -> None:
    check_fit(tiny_copy)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"vocab_size": 1 << 24}, "vocab_size"),
        ({"hidden_size": 1 << 20}, "hidden_size"),
        ({"num_hidden_layers": 4096}, "num_hidden_layers"),
        ({"num_hidden_layers": 20, "head_dim": 4096}, "model_type"),
        ({"num_hidden_layers": 20, "intermediate_size": 400}, "model_type"),
    ],
)
def test_what_the_weights_cannot_hold_is_refused_at_once(tiny_copy: Path, keys: dict[str, int], named: str) -> None:
    put(tiny_copy, **keys)
    start = time.process_time()
    with pytest.raises(ModelError, match="another model than the weights") as caught:
        load_model(tiny_copy, dtype=torch.float32)
    assert time.process_time() - start < 2.0
    assert caught.value.problems[0].where == f"{tiny_copy / 'config.json'}: {named}"
    assert caught.value.problems[0].fix


def test_stop_ids_that_are_none_are_refused(tiny_copy: Path) -> None:
    (tiny_copy / "generation_config.json").write_text('{"eos_token_id": 0.5}')
    with pytest.raises(ModelError, match="not token ids") as caught:
        load_model(tiny_copy, dtype=torch.float32)
    assert caught.value.problems[0].where == f"{tiny_copy / 'generation_config.json'}: eos_token_id"


@pytest.mark.parametrize("said", [7, 0.5, {"a": 1}, ["x"]])
def test_architectures_that_are_no_list_of_names_are_refused(tiny_copy: Path, said: object) -> None:
    put(tiny_copy, architectures=said)
    with pytest.raises(ModelError, match="not a causal language model"):
        load_model(tiny_copy, dtype=torch.float32)
