"""Attention of few queries to the keys of their segments, as one product over all keys: what the last layer of an encoder
needs where only some rows of it are read (each text's first token, to classify it).

For 32 queries of 544 tokens in 12 heads most of [32, 544] scores are hidden, and still they are fewer than the segments' own.
"""

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from tutelage.encode.types import Segment
from tutelage.engine.bundles import of_scores
from tutelage.engine.noise import dropped
from tutelage.engine.plan import unseen

SHARE = 4  # with more queries than one of so many tokens, their segments' own scores are fewer


def few(pick: Tensor | None, tokens: int) -> TypeGuard[Tensor]:
    """Whether the queries of `pick` alone are computed faster than those of all tokens."""
    return pick is not None and len(pick) * SHARE <= tokens


def hidden(segments: Sequence[Segment], pick: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
    """[M, N]: 0 where a key is of the query's own segment, else -inf."""
    owner = np.empty(tokens, np.int64)
    for number, segment in enumerate(segments):
        owner[segment.start : segment.stop] = number
    owners = torch.from_numpy(owner).to(pick.device)
    return unseen(owners[pick][:, None] == owners[None], dtype)


def weights(q: Tensor, k: Tensor, segments: Sequence[Segment], pick: Tensor) -> Tensor:
    """Softmax weights [heads, M, N] of queries [heads, M, D], already scaled, and keys [heads, N, D]."""
    scores = torch.bmm(q, k.transpose(1, 2))
    return torch.softmax(scores.add_(hidden(segments, pick, k.shape[1], q.dtype)), -1)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, given that of the result [heads, M, D], the weights p, and the mask of their dropout."""
    ds = of_scores(dropped(torch.bmm(grad, v.transpose(1, 2)), mask), p)
    return torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q), torch.bmm(dropped(p, mask).transpose(1, 2), grad)
