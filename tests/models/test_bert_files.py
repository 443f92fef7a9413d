"""A BERT of published weights and a vocabulary: what is written loads, and a vocabulary of another model is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, BertConfig, BertModel

from tutelage.errors import ModelError
from tutelage.models.bert_files import wordpiece, write_bert
from tutelage.models.describe import describe
from tutelage.models.load import load_tokenizer

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sky", "is", "blue", "##ish", "?", "why"]


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(TOKENS), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
        max_position_embeddings=40,
    )  # fmt: skip
    weights, vocabulary = tmp_path / "weights.safetensors", tmp_path / "vocab.txt"
    save_file(
        {k: v.contiguous() for k, v in BertModel(config).state_dict().items()}, weights, metadata={"format": "pt"}
    )
    vocabulary.write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    return weights, vocabulary


def test_the_sizes_come_from_the_shapes(parts: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    write_bert(*parts, folder)
    info = describe(folder)
    assert (info.vocabulary, info.hidden, info.layers, info.context) == (12, 64, 2, 40)
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert model.config.num_attention_heads == 2
    tokenizer = load_tokenizer(folder)
    ids = tokenizer("Why is the SKY blueish?")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == (["[CLS]", "why", "is", "the", "sky", "blue", "##ish", "?", "[SEP]"])


def test_pairs_have_types() -> None:
    encoding = wordpiece(TOKENS).encode("sky", "blue")
    assert encoding.tokens == ["[CLS]", "sky", "[SEP]", "blue", "[SEP]"]
    assert encoding.type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("text", ["\n".join(TOKENS[:-1]), "\n".join([*TOKENS[:-1], "the"]), "\n".join("abcdefghijkl")])
def test_another_vocabulary_is_refused(text: str, parts: tuple[Path, Path], tmp_path: Path) -> None:
    parts[1].write_text(text + "\n", encoding="utf-8")
    with pytest.raises(ModelError, match="does not belong"):
        write_bert(*parts, tmp_path / "made")
