"""A WordPiece tokenizer and what tasks are opened with, without any model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tutelage.models.bert_files import SPECIAL, wordpiece
from tutelage.tasks import Opening

WORDS = [
    "the",
    "sky",
    "is",
    "blue",
    "ada",
    "lives",
    "in",
    "london",
    "when",
    "was",
    "it",
    "built",
    "1890",
    "good",
    "bad",
]


@pytest.fixture
def opening() -> Callable[..., Opening]:
    """A function that makes an opening for a small encoder; keyword arguments change it."""
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,?")
    tokens = [*SPECIAL.values(), *letters, *(f"##{c}" for c in letters), *WORDS]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=wordpiece(tokens), **SPECIAL)

    def make(rows: Any = (), others: Any = (), **changes: Any) -> Opening:
        config = {"model_type": "bert", "type_vocab_size": 2, "max_position_embeddings": 64}
        values = {
            "family": "encoder",
            "max_tokens": 64,
            "over_length": "drop",
            "rows": tuple(rows),
            "others": tuple(others),
        }
        return Opening(tokenizer, config, **{**values, **changes})

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    return tmp_path
