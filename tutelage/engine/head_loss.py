"""Losses of heads with few outputs: scores [M, C] are held whole. Each is a weighted sum over targets, in nats or squares."""

from torch import Tensor
from torch.nn import functional

from tutelage.engine.loss import LossSum


def _sum(losses: Tensor, weights: Tensor, right: Tensor) -> LossSum:
    total = (losses * weights.to(losses.dtype)).sum()
    return LossSum(total, float(total.detach()), int(right.sum()))


def one_of(scores: Tensor, labels: Tensor, weights: Tensor) -> LossSum:
    """Cross-entropy of one class each: scores [M, C], labels [M]."""
    losses = functional.cross_entropy(scores, labels, reduction="none")
    return _sum(losses, weights, scores.argmax(-1) == labels)


def any_of(scores: Tensor, labels: Tensor, weights: Tensor, positive: Tensor | None = None) -> LossSum:
    """Mean binary cross-entropy over classes, any of which may hold: scores [M, C], labels [M, C].

    `positive` [C] weighs a class's term in the rows where it holds (`pos_weight` of torch's BCEWithLogitsLoss).
    """
    losses = functional.binary_cross_entropy_with_logits(
        scores, labels.to(scores.dtype), reduction="none", pos_weight=positive
    )
    return _sum(losses.mean(-1), weights, ((scores > 0) == (labels > 0.5)).all(-1))


def squared(scores: Tensor, labels: Tensor, weights: Tensor) -> LossSum:
    """Squared error: scores [M, 1], labels [M]."""
    errors = (scores[:, 0] - labels.to(scores.dtype)) ** 2
    return _sum(errors, weights, errors < 0.25)


def ranked(scores: Tensor, weights: Tensor) -> LossSum:
    """-log sigmoid(better - worse) (Bradley & Terry 1952): scores [2P, 1], the better text of each pair first.

    The first weight of a pair is the pair's, the second one is zero.
    """
    gaps = scores[::2, 0] - scores[1::2, 0]
    return _sum(-functional.logsigmoid(gaps), weights[::2], gaps > 0)
