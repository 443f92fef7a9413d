"""How an encoder's hidden states become one vector: what sentence-transformers' files say is obeyed or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.errors import ModelError
from tutelage.models.encoder import Pooling, pooling_of

# As all-MiniLM-L6-v2's own files have them.
MODULES = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
           {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
           {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]  # fmt: skip
MEAN = {"word_embedding_dimension": 384, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def written(folder: Path, modules: Any, pooling: dict[str, Any]) -> Path:
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 256}', encoding="utf-8")
    return folder


@pytest.mark.parametrize("modules, pooling, expected", [
    (MODULES, MEAN, Pooling(False, True, 256)), (MODULES[:2], MEAN, Pooling(False, False, 256)),
    (MODULES, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, Pooling(True, True, 256)),
    (MODULES, {"pooling_mode": "mean"}, Pooling(False, True, 256)), (MODULES, {"pooling_mode": "cls"}, Pooling(True, True, 256)),
])  # fmt: skip
def test_the_folders_own_files_decide(tmp_path: Path, modules: Any, pooling: Any, expected: Pooling) -> None:
    assert pooling_of(written(tmp_path, modules, pooling)) == expected


def test_without_files_it_is_the_mean_of_length_one(tmp_path: Path) -> None:
    assert pooling_of(tmp_path) == Pooling(False, True)


@pytest.mark.parametrize("modules, pooling", [
    (MODULES, {"pooling_mode_max_tokens": True}), (MODULES, {}), (MODULES, {**MEAN, "pooling_mode_max_tokens": True}),
    ([*MODULES, {"path": "3", "type": "sentence_transformers.models.Dense"}], MEAN), ({"a": 1}, MEAN), ([1], MEAN),
])  # fmt: skip
def test_what_is_not_known_is_refused(tmp_path: Path, modules: Any, pooling: Any) -> None:
    with pytest.raises(ModelError):
        pooling_of(written(tmp_path, modules, pooling))


def test_padding_does_not_count() -> None:
    states = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0]])
    torch.testing.assert_close(Pooling(normalised=False).pool(states, mask), torch.tensor([[1.5, 2.0]]))
    torch.testing.assert_close(Pooling().pool(states, mask), torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(Pooling(first=True).pool(states, mask), torch.tensor([[1.0, 0.0]]))
