"""Wrong labels, on vectors drawn around known centres and with a tiny encoder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tutelage
from tutelage.curate.embed import embed
from tutelage.curate.labels import Example, find_issues, judge, out_of_fold
from tutelage.data.types import At
from tutelage.errors import DataError

pytest.importorskip("cleanlab")


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of one layer whose vocabulary are a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"{kind}{i}" for kind in ("red", "blue") for i in range(30))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def texts(count: int) -> tuple[list[str], list[str]]:
    draw = np.random.default_rng(1)
    kinds = ["red" if i % 2 else "blue" for i in range(count)]
    return [" ".join(f"{kind}{j}" for j in draw.integers(0, 6, 4)) for kind in kinds], kinds


def test_flipped_labels_are_found_and_ranked_better_than_by_chance() -> None:
    draw = np.random.default_rng(0)
    true = draw.integers(0, 4, 800)
    vectors = (np.eye(4)[true] + draw.normal(0, 0.25, (800, 4))).astype(np.float32)
    flipped = draw.random(800) < 0.2
    noisy = np.where(flipped, (true + draw.integers(1, 4, 800)) % 4, true)
    found, probabilities = judge(vectors, noisy)
    own = probabilities[np.arange(800), noisy]
    assert (np.diff(own[found]) >= 0).all()
    assert flipped[found].mean() > 0.9
    assert flipped[found].sum() > 0.8 * flipped.sum()


def test_every_row_is_judged_by_a_model_that_has_not_seen_it() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(300, 200)).astype(np.float32)  # noise: only a model that saw a row could know its label
    labels = draw.integers(0, 2, 300)
    probabilities = out_of_fold(vectors, labels)
    assert np.allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == labels).mean() < 0.6


def test_vectors_do_not_depend_on_the_batch(encoder: Path) -> None:
    given, _ = texts(150)
    together = embed(given, encoder, quiet)
    alone = np.concatenate([embed([text], encoder, quiet) for text in given[:5]])
    assert np.allclose(together[:5], alone, atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_wrong_labels_of_a_file_are_a_finding_and_a_list(encoder: Path, tmp_path: Path) -> None:
    given, kinds = texts(400)
    wrong = set(range(3, 400, 10))
    rows = [
        {"text": text, "label": {"red": "blue", "blue": "red"}[kind] if i in wrong else kind}
        for i, (text, kind) in enumerate(zip(given, kinds))
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = tutelage.data_check(str(path), labels=True, encoder=str(encoder))
    found = {issue["row"] - 1 for issue in result["label_issues"]}
    assert len(found & wrong) >= 0.5 * len(wrong)
    assert len(found & wrong) >= 0.9 * len(found)
    assert all(issue["suggested"] != issue["label"] for issue in result["label_issues"][:3])
    (finding,) = [each for each in result["findings"] if each["kind"] == "wrong_label"]
    assert finding["count"] == len(result["label_issues"])


def test_what_cannot_be_judged_is_said(encoder: Path, tmp_path: Path) -> None:
    few = [Example(At("a", i), "red1", "red") for i in range(9)]
    with pytest.raises(DataError, match="at least 5 rows"):
        find_issues([*few, Example(At("a", 10), "blue1", "blue")], encoder, quiet)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="nothing to judge"):
        tutelage.data_check(str(path), labels=True, encoder=str(encoder))
