"""Cross-entropy from hidden states without ever holding all logits: memory does not grow with targets x vocabulary.

The fast path goes chunk by chunk through logits, loss and their gradient in one pass (as in Cut Cross-Entropy, Wijmans
et al. 2024, arXiv 2411.09009, but with plain matrix products). `reference` is the same with torch's cross_entropy.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

# Logits held at once: 64 MiB in fp32, 341 targets at 49,152 tokens of vocabulary; four times as many where the head trains,
# because each chunk then adds a gradient as large as the head.
CHUNK_VALUES = 16 * 2**20
CACHE_VALUES = 2**19  # of these worked on at once outside the matrix products: 2 MiB in fp32


@dataclass(frozen=True)
class Head:
    """What turns a hidden state into logits: z = W h + b, then z·scale, then soft-capping c·tanh(z/c)."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, H] → [n, V]."""
        z = nn.functional.linear(hidden, self.weight, self.bias)
        if self.scale != 1.0:
            z = z * self.scale
        return torch.tanh(z / self.softcap) * self.softcap if self.softcap else z


@dataclass(frozen=True)
class Anchor:
    """What the model is held to: the base model's hidden states [M, H] at the same targets, its head, and how firmly.

    Adds strength · KL(base || tuned) = strength · Σ p_base (log p_base - log p_tuned) of each target to its loss.
    """

    hidden: Tensor
    head: Head
    strength: float


@dataclass(frozen=True)
class LossSum:
    """Sums over target tokens: weighted loss (with gradient), its plain value, and how many first choices were right.

    With an anchor `total` has the divergence in it, times its strength; `value` does not, and `divergence` is its weighted sum.
    """

    total: Tensor
    value: float
    correct: int
    divergence: float = 0.0


def reference(hidden: Tensor, head: Head, labels: Tensor, weights: Tensor, anchor: Anchor | None = None) -> LossSum:
    """All logits at once through torch's cross_entropy: [M, H], [M], [M] → sums."""
    base = None if anchor is None else (anchor.head.logits(anchor.hidden), anchor.strength)
    return reference_from_logits(head.logits(hidden), labels, weights, base)


def reference_from_logits(
    logits: Tensor, labels: Tensor, weights: Tensor, base: tuple[Tensor, float] | None = None
) -> LossSum:
    """The same from a model's own logits [M, V], and those of the base model with the anchor's strength."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    total = (losses * weights.to(losses.dtype)).sum()
    found = LossSum(total, float(total.detach()), int((logits.argmax(-1) == labels).sum()))
    if base is None:
        return found
    ours, theirs = (each.to(logits.dtype).log_softmax(-1) for each in (logits, base[0]))
    each = nn.functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    divergence = (each * weights.to(each.dtype)).sum()
    return replace(found, total=total + base[1] * divergence, divergence=float(divergence.detach()))


class _ChunkedLoss(torch.autograd.Function):
    """Forward and backward in one pass; the gradient is kept and only scaled in `backward`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head, labels: Tensor, weights: Tensor,
        counts: list[float], anchor: Anchor | None,
    ) -> Tensor:  # fmt: skip
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        wants = ctx.needs_input_grad
        dhidden = torch.empty_like(hidden) if wants[0] else None
        dweight: Tensor | None = None
        dbias = torch.zeros(bias.shape, dtype=exact, device=weight.device) if bias is not None and wants[2] else None
        total = torch.zeros((), dtype=torch.float64)
        most = (CHUNK_VALUES * 4 if wants[1] else CHUNK_VALUES) // weight.shape[0]
        chunk = max(1, min(hidden.shape[0], most))
        held = torch.empty(chunk, weight.shape[0], dtype=hidden.dtype, device=hidden.device)  # reused: no page faults
        for start in range(0, hidden.shape[0], chunk):
            h, y, w = (t[start : start + chunk] for t in (hidden, labels, weights))
            g = torch.mm(h, weight.t(), out=held[: h.shape[0]])
            base = None if anchor is None else anchor.hidden[start : start + chunk] @ anchor.head.weight.t()
            for rows in range(0, h.shape[0], step := max(1, CACHE_VALUES // weight.shape[0])):
                few = slice(rows, rows + step)
                pull = None if anchor is None or base is None else _Pull(base[few], anchor)
                found = _to_gradient(g[few], bias, head, y[few], w[few], exact, dbias, any(wants[:3]), pull)
                total, counts[0], counts[1] = total + found[0], counts[0] + found[1], counts[1] + found[2]
            if dhidden is not None:
                torch.mm(g, weight, out=dhidden[start : start + chunk])
            if wants[1]:
                part = g.t() @ h
                if dweight is None:  # one chunk is the rule; sums of several are exact
                    dweight = part if chunk >= hidden.shape[0] else part.to(exact)
                else:
                    dweight += part
        ctx.save_for_backward(dhidden, dweight, dbias)
        ctx.dtypes = weight.dtype, bias.dtype if bias is not None else None
        return total.to(device=hidden.device, dtype=exact)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale = float(gradients[0])
        dhidden, dweight, dbias = ctx.saved_tensors
        return (
            None if dhidden is None else dhidden * scale,
            None if dweight is None else dweight.mul_(scale).to(ctx.dtypes[0]),
            None if dbias is None else dbias.mul_(scale).to(ctx.dtypes[1]),
            None, None, None, None, None,
        )  # fmt: skip


@dataclass(frozen=True)
class _Pull:
    """The base model's products W h of a few targets, [n, V], and the anchor that they belong to."""

    products: Tensor
    anchor: Anchor

    def log_probabilities(self, exact: torch.dtype) -> Tensor:
        """log p_base, [n, V]."""
        z, _ = _scores(self.products.to(exact), self.anchor.head.bias, self.anchor.head)
        return z.log_softmax(-1)


def _to_gradient(
    logits: Tensor, bias: Tensor | None, head: Head, y: Tensor, w: Tensor, exact: torch.dtype, dbias: Tensor | None,
    wanted: bool, pull: _Pull | None,
) -> tuple[Tensor, int, float]:  # fmt: skip
    """Loss sum, right first choices and divergence sum of a few rows; turns `logits` in place into the gradient in them.

    Few rows at a time, so that the passes over them run in the processor's cache: on 341 x 49,152 logits at once each
    conversion alone took 10 ms, most of it page faults.
    """
    z, slope = _scores(logits.to(exact), bias, head)
    target = z.gather(1, y[:, None])
    top = z.amax(1, keepdim=True)
    correct = int((target == top).sum())
    z.sub_(top)
    ours = None if pull is None else z.clone()
    z.exp_()
    norm = z.sum(1, keepdim=True)
    loss = ((norm.log() - (target - top))[:, 0].double() * w.double()).sum().cpu()
    divergence, strength = 0.0, 0.0
    if pull is not None and ours is not None:
        theirs, strength = pull.log_probabilities(exact), pull.anchor.strength
        probabilities = theirs.exp()
        gaps = theirs.sub_(ours.sub_(norm.log())).mul_(probabilities).sum(1)
        divergence = float((gaps.double() * w.double()).sum())
        loss = loss + strength * divergence
    if wanted:
        z.mul_(w[:, None] * (1 + strength) / norm).scatter_add_(1, y[:, None], -w[:, None].to(exact))
        if pull is not None:
            z.addcmul_(probabilities, w[:, None].to(exact), value=-strength)
        if slope is not None:
            z.mul_(slope)
        if head.scale != 1.0:
            z.mul_(head.scale)
        if dbias is not None:
            dbias += z.sum(0)
        logits.copy_(z)
    return loss, correct, divergence


def _scores(z: Tensor, bias: Tensor | None, head: Head) -> tuple[Tensor, Tensor | None]:
    """The head's rule on W h, and d(capped)/d(uncapped) where there is soft-capping."""
    if bias is not None:
        z = z + bias
    if head.scale != 1.0:
        z = z * head.scale
    if head.softcap is None:
        return z, None
    tanh = torch.tanh(z / head.softcap)
    return tanh * head.softcap, 1 - tanh * tanh


def linear_cross_entropy(
    hidden: Tensor, head: Head, labels: Tensor, weights: Tensor, *, fast: bool = True, anchor: Anchor | None = None
) -> LossSum:
    """Weighted sum of -log p(label) over targets: hidden [M, H], labels [M], weights [M] → sums in nats."""
    if not fast:
        return reference(hidden, head, labels, weights, anchor)
    counts = [0.0, 0.0]
    total = _ChunkedLoss.apply(hidden, head.weight, head.bias, head, labels, weights, counts, anchor)  # type: ignore[no-untyped-call]
    pulled = 0.0 if anchor is None else anchor.strength * counts[1]
    return LossSum(total, float(total.detach()) - pulled, int(counts[0]), counts[1])


@torch.no_grad()
def token_losses(hidden: Tensor, head: Head, labels: Tensor) -> Tensor:
    """[M] float64: -log p(label) of each target in nats, chunk by chunk; hidden [M, H], labels [M]. No gradient."""
    chunk = max(1, CHUNK_VALUES // head.weight.shape[0])
    parts = [
        losses_from_logits(head.logits(hidden[start : start + chunk]), labels[start : start + chunk])
        for start in range(0, len(labels), chunk)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def losses_from_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """[M] float64: -log p(label) of each target from logits [M, V]."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return nn.functional.cross_entropy(logits, labels, reduction="none").double()
