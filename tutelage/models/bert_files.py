"""An uncased BERT of published weights and vocabulary: config and tokenizer are written here, not taken from anybody.

The sizes follow from the tensors' shapes, the tokenizer from the vocabulary (WordPiece as in Devlin et al. 2018, arXiv
1810.04805), so weights and vocabulary are the only files that must be trusted, and both are pinned by hash.
"""

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tutelage.errors import ModelError
from tutelage.models.safetensors_file import read_header

SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
HEAD_SIZE = 32  # of the MiniLM family; shapes do not tell it
WORDS, POSITIONS, TYPES = (f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))


def write_bert(weights: Path, vocabulary: Path, folder: Path) -> None:
    """A model folder of the safetensors `weights` and the `vocabulary`, one token a line."""
    shapes = {tensor.name: tensor.shape for tensor in read_header(weights)}
    layers = len({name.split(".")[2] for name in shapes if name.startswith("encoder.layer.")})
    tokens = vocabulary.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if not layers or WORDS not in shapes:
        raise ModelError("these weights are not those of a BERT", where=str(weights))
    size, hidden = shapes[WORDS]
    if len(tokens) != size or len(set(tokens)) != size or not set(SPECIAL.values()) <= set(tokens):
        raise ModelError(
            "the vocabulary does not belong to the weights", where=str(vocabulary),
            why=f"it has {len(tokens)} tokens, and the embedding {size} rows", fix="fetch the model again",
        )  # fmt: skip
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": size, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": hidden // HEAD_SIZE, "hidden_act": "gelu",
        "intermediate_size": shapes["encoder.layer.0.intermediate.dense.weight"][0], "layer_norm_eps": 1e-12,
        "max_position_embeddings": shapes[POSITIONS][0], "type_vocab_size": shapes[TYPES][0], "initializer_range": 0.02,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "pad_token_id": tokens.index("[PAD]"),
    }  # fmt: skip
    shutil.move(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    wordpiece(tokens).save(str(folder / "tokenizer.json"))
    settings = {**SPECIAL, "model_max_length": config["max_position_embeddings"], "tokenizer_class": "BertTokenizer",
                "do_lower_case": True}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def wordpiece(tokens: list[str]) -> Tokenizer:
    """BERT's uncased tokenizer over `tokens`: [CLS] text [SEP], or [CLS] text [SEP] second text [SEP]."""
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.add_special_tokens([token for token in tokens if token in SPECIAL.values()])
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )  # fmt: skip
    return tokenizer
