"""Task seq2seq: buckets, prefixes, and a T5-type model that learns a toy translation."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from tutelage.data.rows import Pair
from tutelage.data.types import At
from tutelage.encode.padded import buckets, pad
from tutelage.encode.types import Encoded
from tutelage.recipe import make_recipe
from tutelage.train.loop import training
from tutelage.train.material import gather
from tutelage.train.setup import build_state, choose_plan


def row(read: int, written: int) -> Encoded:
    weights = np.ones(written, np.float32)
    weights[0] = 0
    ids = np.arange(1, written + 1, dtype=np.int32)
    return Encoded(ids, weights, np.zeros(written, np.uint8), At("f", 1), source=np.arange(1, read + 1, dtype=np.int32))


def test_buckets_hold_rows_of_similar_length_within_the_budget() -> None:
    rows = [row(read, 3) for read in (30, 5, 6, 31, 5, 90)]
    groups = buckets(rows, 70)
    assert sorted(itertools.chain.from_iterable(groups)) == list(range(6))
    assert groups == [[1, 4, 2], [0, 3], [5]]


def test_padding_is_masked_and_places_are_those_of_the_flattened_batch() -> None:
    batch = pad([row(4, 3), row(2, 5)], pad_id=0)
    assert batch.encoder_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.decoder_ids.tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]
    assert batch.sources.tolist() == [0, 1, 5, 6, 7, 8]
    assert batch.labels.tolist() == [2, 3, 2, 3, 4, 5]
    assert batch.tokens == 14


ENGLISH = ("one", "two", "three", "four", "five", "six", "seven", "red", "blue", "old", "new", "boat", "house", "dog")
GERMAN = (
    "eins",
    "zwei",
    "drei",
    "vier",
    "fuenf",
    "sechs",
    "sieben",
    "rot",
    "blau",
    "alt",
    "neu",
    "boot",
    "haus",
    "hund",
)
WORDS = dict(zip(ENGLISH, GERMAN))


@pytest.mark.slow
def test_a_t5_learns_a_toy_translation(tmp_path: Path) -> None:
    """Word by word, with the last word first: BLEU above 60 on sentences that were not trained on."""
    import sacrebleu
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

    folder, draw = tmp_path / "t5", random.Random(0)
    vocabulary = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS, *WORDS.values()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = CONFIG_MAPPING["t5"](
        vocab_size=len(vocabulary), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    lines = set()
    while len(lines) < 1100:
        lines.add(" ".join(draw.choices(list(WORDS), k=draw.randint(3, 6))))
    rows = [
        {"source": s, "target": " ".join(WORDS[w] for w in [s.split()[-1], *s.split()[:-1]])} for s in sorted(lines)
    ]
    draw.shuffle(rows)
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(r) + "\n" for r in rows[:1000]), encoding="utf-8")
    recipe = make_recipe(
        {
            "model": str(folder), "task": {"kind": "seq2seq", "max_target_tokens": 16}, "data": {"train": str(train)},
            "method": "full", "optim": {"steps": 800, "batch_size": 32, "learning_rate": 3e-3}, "max_tokens": 32,
            "precision": "fp32", "forgetting": False, "batch": {"tokens": 512},
        }
    )  # fmt: skip
    material = gather(recipe, lambda text: None)
    state = build_state(recipe, material, choose_plan(recipe), tmp_path / "checkpoints")
    for _ in training(state):
        pass
    test = [Pair(r["source"], (r["target"],), At("test", i)) for i, r in enumerate(rows[1000:], 1)]
    found = material.task.predict(state.backbone, test, state.plan)
    bleu = sacrebleu.corpus_bleu([p.text for p in found], [[p.texts[0] for p in found]]).score
    assert bleu > 60, [(p.input, p.text) for p in found[:5]]
