"""Loading an encoder without a head, for vectors of texts."""

from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from tutelage.errors import ModelError
from tutelage.models.load import load_tokenizer
from tutelage.models.safety import check_folder


def load_encoder(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The body and the tokenizer of the encoder in a folder, in fp32 and eval mode."""
    check_folder(path)
    try:
        model = AutoModel.from_pretrained(
            str(path), dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            attn_implementation="sdpa", add_pooling_layer=False,
        )  # fmt: skip
    except Exception as error:  # whatever a loader raises on a damaged folder
        why = " ".join(str(error).split())[:300]
        raise ModelError("the encoder cannot be loaded", where=str(path), why=why, fix="name a BERT folder") from error
    return model.eval(), load_tokenizer(path)
