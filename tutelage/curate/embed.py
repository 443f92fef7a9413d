"""Vectors of texts: the mean of an encoder's last hidden states, of length 1 (Reimers and Gurevych 2019, §3)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.models.encoder import Pooling, load_encoder

BATCH = 64
MOST_TOKENS = 256  # MiniLM was trained on no more
Say = Callable[[str], None]
Vectors = NDArray[np.float32]


def embed(texts: Sequence[str], folder: Path, say: Say) -> Vectors:
    """(texts, hidden size) of unit vectors, from the encoder in `folder`; batches are of texts of like length."""
    model, tokenizer = load_encoder(folder)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    result = np.empty((len(texts), int(model.config.hidden_size)), np.float32)
    for first in range(0, len(order), BATCH):
        chosen = order[first : first + BATCH]
        inputs = tokenizer(
            [texts[i] for i in chosen], padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        result[chosen] = Pooling().pool(states, inputs["attention_mask"]).numpy()
        if first and first % (50 * BATCH) == 0:
            say(f"{first:,} of {len(texts):,} texts embedded")
    return result
