"""Which token comes next: a pure function of the logits, the settings and a random generator."""

from dataclasses import dataclass

import torch

from tutelage.errors import Problem, UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose from logits. `temperature` 0 takes the likeliest token; the other defaults change nothing."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        wrong = [
            Problem(f"{name} must be {rule}, and is {getattr(self, name)}", where=name)
            for name, rule, fine in (
                ("temperature", "0 or more", 0.0 <= self.temperature < float("inf")),
                ("top_k", "0 or more", self.top_k >= 0),
                ("top_p", "above 0 and at most 1", 0.0 < self.top_p <= 1.0),
                ("min_p", "between 0 and 1", 0.0 <= self.min_p <= 1.0),
                ("repetition_penalty", "above 0", 0.0 < self.repetition_penalty < float("inf")),
            )
            if not fine
        ]
        if wrong:
            raise UsageError(wrong)


def next_id(
    logits: torch.Tensor,
    sampling: Sampling,
    *,
    seen: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> int:
    """The next token id for `logits` [vocabulary]. `seen` are the ids so far, for the repetition penalty."""
    scores = penalised(logits.float(), seen, sampling.repetition_penalty)
    if sampling.temperature == 0.0:
        return int(scores.argmax())
    probabilities = torch.softmax(filtered(scores / sampling.temperature, sampling), dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def penalised(scores: torch.Tensor, seen: torch.Tensor | None, penalty: float) -> torch.Tensor:
    """`scores` with those of seen ids made smaller by the penalty, whatever their sign (arXiv 1909.05858)."""
    if penalty == 1.0 or seen is None or len(seen) == 0:
        return scores
    ids = torch.unique(seen)
    chosen = scores[ids]
    return scores.index_copy(0, ids, torch.where(chosen < 0, chosen * penalty, chosen / penalty))


def filtered(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """`scores` with -inf for the ids that top_k, then top_p, then min_p rule out; the likeliest id always stays."""
    if 0 < sampling.top_k < len(scores):
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1.0:
        # Ids below an even share of the tail are out whatever their order, so only the few others are sorted.
        probabilities = torch.softmax(scores, dim=-1)
        likely = (probabilities >= (1.0 - sampling.top_p) / len(scores)).nonzero()[:, 0]
        ordered, order = probabilities[likely].sort()
        out = (1.0 - probabilities[likely].sum()).clamp_min(0.0) + ordered.cumsum(dim=-1) <= 1.0 - sampling.top_p
        out[-1] = False
        scores = torch.full_like(scores, -torch.inf).index_copy(0, likely[order[~out]], scores[likely[order[~out]]])
    if sampling.min_p > 0.0:
        probabilities = torch.softmax(scores, dim=-1)
        scores = scores.masked_fill(probabilities < sampling.min_p * probabilities.max(), -torch.inf)
    return scores
