"""Micro-batches of encoder-decoders: rows of similar length side by side, padded, because their attention has a bias over
whole sequences (T5) or no way to keep packed rows apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tutelage.encode.layout import scored
from tutelage.encode.types import Encoded


@dataclass(frozen=True, slots=True)
class Padded:
    """B rows. `encoder_ids`, `encoder_mask`: [B, S]. `decoder_ids`: [B, T]. `sources`: [M] places in the flattened [B·T].

    `labels` [M] and `weights` [M] are as in a `Layout`. Padding behind a target needs no mask: its decoder is causal.
    """

    encoder_ids: Tensor
    encoder_mask: Tensor
    decoder_ids: Tensor
    sources: Tensor
    labels: Tensor
    weights: Tensor
    tokens: int

    @property
    def ids(self) -> Tensor:
        """All ids, padding included: its length is what the micro-batch costs."""
        return torch.cat((self.encoder_ids.flatten(), self.decoder_ids.flatten()))


def buckets(rows: Sequence[Encoded], budget: int) -> list[list[int]]:
    """Row numbers in groups of similar length, each of at most `budget` tokens with its padding; a longer row is alone."""
    order = sorted(range(len(rows)), key=lambda i: (_read(rows[i]), len(rows[i].ids), i))
    groups: list[list[int]] = []
    for index in order:
        group = [*(groups[-1] if groups else []), index]
        widest = max(_read(rows[i]) for i in group) + max(len(rows[i].ids) for i in group)
        if groups and widest * len(group) <= budget:
            groups[-1] = group
        else:
            groups.append([index])
    return groups


def _read(row: Encoded) -> int:
    return 0 if row.source is None else len(row.source)


def pad(rows: Sequence[Encoded], pad_id: int, device: str = "cpu") -> Padded:
    """The rows as one padded micro-batch."""
    read = [row.source for row in rows if row.source is not None]
    encoder_ids = _block(read, pad_id)
    decoder_ids = _block([row.ids for row in rows], pad_id)
    width = decoder_ids.shape[1]
    parts = [scored(row) for row in rows]
    mask = np.arange(encoder_ids.shape[1])[None] < np.array([len(ids) for ids in read])[:, None]
    return Padded(
        encoder_ids=torch.from_numpy(encoder_ids).to(device),
        encoder_mask=torch.from_numpy(mask.astype(np.int64)).to(device),
        decoder_ids=torch.from_numpy(decoder_ids).to(device),
        sources=torch.from_numpy(
            np.concatenate([at + i * width for i, (at, _, _) in enumerate(parts)]).astype(np.int64)
        ).to(device),
        labels=torch.from_numpy(np.concatenate([label for _, label, _ in parts]).astype(np.int64)).to(device),
        weights=torch.from_numpy(np.concatenate([weight for _, _, weight in parts]).astype(np.float32)).to(device),
        tokens=sum(len(row.ids) + _read(row) for row in rows),
    )


def _block(parts: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
    block = np.full((len(parts), max(len(part) for part in parts)), pad_id, dtype=np.int64)
    for line, part in zip(block, parts):
        line[: len(part)] = part
    return block
