"""The parity gate: an export, opened again from its files, is held to the trained model on held-out prompts.

The trained model answers each prompt greedily; then both models read prompt and answer in one forward pass. If they
choose the same token everywhere on that path, the export's own greedy answer is the same too, by induction, so one
pass decides agreement and stop behaviour, and gives the logits' difference. A token whose two best logits lie closer
than TIE in the trained model is a tie: rounding decides it, and it is not counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.errors import CheckFailedError, Problem
from tutelage.export.types import Bounds, Replica, Source
from tutelage.generate.decode import stream
from tutelage.generate.sampling import Sampling

TIE = 1e-3
# Of the largest logit: SmolLM2-135M read in fp32 differs from itself in fp64 by 1.6e-6, and two models are compared.
# Rounding in fp32 so reaches 1.3e-4 in 50 prompts with logits up to 43, where in fp64 the merged weights differ by 2.1e-5.
ROUNDING = 4e-6


@dataclass(frozen=True)
class Case:
    """One held-out example: the prompt, the trained model's greedy answer, and the row's own answer."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]  # with the stop id, where the trained model stopped
    stopped: bool
    row: tuple[int, ...]
    weights: tuple[float, ...]  # the loss weight of each token of `row`

    @property
    def replayed(self) -> tuple[tuple[int, ...], int]:
        """The ids that a model reads to replay the answer, and the first of them behind which its choice counts."""
        return (*self.prompt, *self.answer)[:-1], len(self.prompt) - 1

    @property
    def judged(self) -> tuple[tuple[int, ...], int] | None:
        """The same for the loss of the row's own answer; None where no token of it counts."""
        first = next((i for i, weight in enumerate(self.weights) if i and weight), None)
        return None if first is None else (self.row[:-1], first - 1)


@dataclass(frozen=True)
class Parity:
    """What the gate saw. Losses are nats per target token of the held-out rows."""

    runner: str
    prompts: int
    held_out: bool  # whether the prompts are held-out rows of the run, or the built-in ones
    tokens: int
    ties: int
    agreement: float
    logit_difference: float
    largest_logit: float  # of the trained model, without its sign
    stops: int  # answers that the trained model ended by itself
    same_stops: int
    loss: float | None
    export_loss: float | None
    texts: int  # texts whose tokenisation was compared
    same_texts: int
    template_equal: bool
    stop_ids_missing: tuple[int, ...]  # stop ids of the trained model that the export does not know
    early_stops: int  # answers inside which the export would stop

    @property
    def loss_change(self) -> float | None:
        """Relative change of the loss per token."""
        if self.loss is None or self.export_loss is None or self.loss == 0.0:
            return None
        return (self.export_loss - self.loss) / self.loss

    def as_json(self) -> dict[str, Any]:
        """The figures as parity.json holds them."""
        return {**asdict(self), "loss_change": self.loss_change}

    def as_text(self) -> str:
        """The card's section."""
        lines = [
            "## Is this the model that was trained?", "",
            f"Replayed by {self.runner} on {self.prompts} {'held-out' if self.held_out else 'built-in'} prompts:", "",
            f"- {self.agreement:.2%} of {self.tokens} tokens of the greedy answers agree"
            f"{f' ({self.ties} ties not counted)' if self.ties else ''}",
            f"- {self.same_stops} of {self.stops} answers end where the trained model's do",
            f"- largest difference of a logit: {self.logit_difference:.3g}",
            f"- {self.same_texts} of {self.texts} texts tokenise identically",
        ]  # fmt: skip
        if self.loss_change is not None:
            lines.append(f"- loss per target token: {self.loss:.4f} → {self.export_loss:.4f} ({self.loss_change:+.2%})")
        return "\n".join(lines)


def make_cases(source: Source, rows: Sequence[Any], max_tokens: int) -> Iterator[Case]:
    """A case for each encoded row: its first prompt answered greedily by the trained model."""
    for row in rows:
        ids, weights = tuple(int(i) for i in row.ids), tuple(float(w) for w in row.weights)
        first = next(i for i, weight in enumerate(weights) if weight)
        prompt = ids[:first]
        answer: list[int] = []
        asked = stream(
            source.model, prompt, sampling=Sampling(), stop_ids=frozenset(), max_tokens=max_tokens,
        )  # fmt: skip
        for token in asked:  # the stop id belongs to the answer here, so it is looked for outside
            answer.append(token)
            if token in source.template.stop_ids:
                break
        yield Case(prompt, tuple(answer), answer[-1] in source.template.stop_ids, ids, weights)


def measure(
    source: Source, replica: Replica, trained: Replica, cases: Sequence[Case], texts: Sequence[str], held_out: bool
) -> Parity:
    """Replay the cases through `trained` (the model in memory) and `replica`, and compare everything that can differ."""
    tokens = ties = agreed = stops = same_stops = early_stops = 0
    widest = largest = total = ours = theirs = 0.0
    stop_ids, known_stops = source.template.stop_ids, replica.stop_ids()
    for case in cases:
        expected, got = trained.logits(*case.replayed), replica.logits(*case.replayed)
        widest, largest = max(widest, _difference(expected, got)), max(largest, float(expected.abs().max()))
        best = expected.topk(2).values
        tie = (best[:, 0] - best[:, 1]) < TIE
        chosen = got.argmax(dim=-1)
        same = chosen == torch.tensor(case.answer)
        if case.stopped:
            stops += 1
            same[-1] = int(chosen[-1]) in stop_ids
            same_stops += bool(same[-1] | tie[-1])
        tokens += len(case.answer)
        early_stops += bool((known_stops - stop_ids).intersection(case.answer))
        ties += int((tie & ~same).sum())
        agreed += int((same | tie).sum())
        if case.judged is not None:
            loss, exported, weight = _losses(case, case.judged, trained, replica)
            ours, theirs, total = ours + loss, theirs + exported, total + weight
    same_texts = sum(_same_ids(trained, replica, text) for text in texts)
    return Parity(
        runner=replica.runner, prompts=len(cases), held_out=held_out, tokens=tokens, ties=ties,
        agreement=agreed / max(1, tokens), logit_difference=widest, largest_logit=largest, stops=stops, same_stops=same_stops,
        loss=ours / total if total else None, export_loss=theirs / total if total else None,
        texts=len(texts), same_texts=same_texts, template_equal=replica.template_text() == source.template.text,
        stop_ids_missing=tuple(sorted(stop_ids - known_stops)), early_stops=early_stops,
    )  # fmt: skip


def _difference(expected: Tensor, got: Tensor) -> float:
    if expected.shape != got.shape:
        return float("inf")
    worst = float((expected - got).abs().max())
    return worst if worst == worst else float("inf")  # NaN differs from everything


def _losses(
    case: Case, judged: tuple[Sequence[int], int], trained: Replica, replica: Replica
) -> tuple[float, float, float]:  # fmt: skip
    """(loss sum of the trained model, of the export, sum of weights) over the row's target tokens."""
    ids, start = judged
    targets, weights = torch.tensor(case.row[start + 1 :]), torch.tensor(case.weights[start + 1 :])
    sums = [
        float((torch.nn.functional.cross_entropy(r.logits(ids, start), targets, reduction="none") * weights).sum())
        for r in (trained, replica)
    ]
    return sums[0], sums[1], float(weights.sum())


def _same_ids(trained: Replica, replica: Replica, text: str) -> bool:
    return all(trained.ids_of(text, special=s) == replica.ids_of(text, special=s) for s in (False, True))


FIX = "nothing was exported; choose a more exact kind, or report this as a bug"


def problems(parity: Parity, bounds: Bounds, where: str, fix: str = FIX) -> Iterator[Problem]:
    """A sentence for everything by which the export is not the trained model."""
    if not parity.template_equal:
        yield Problem("the export carries another chat template", where, "prompts would be rendered otherwise", fix)
    if parity.stop_ids_missing:
        yield Problem("the export does not know every stop token", where, f"missing: {parity.stop_ids_missing}", fix)
    if parity.early_stops:
        why = f"{parity.early_stops} answers hold a token at which it ends"
        yield Problem("the export would end answers early", where, why, fix)
    if parity.same_texts != parity.texts:
        other = parity.texts - parity.same_texts
        yield Problem(f"the export tokenises {other} of {parity.texts} texts otherwise", where, "", fix)
    if parity.agreement < bounds.agreement:
        why = f"{parity.agreement:.2%} of {parity.tokens} tokens agree, at least {bounds.agreement:.0%} must"
        yield Problem("the export answers otherwise than the trained model", where, why, fix)
    if bounds.agreement and parity.same_stops < bounds.agreement * parity.stops:
        why = f"{parity.same_stops} of {parity.stops} answers end where the trained model's do"
        yield Problem("the export does not stop where the trained model does", where, why, fix)
    rounding = max(bounds.logit_difference or 0.0, ROUNDING * parity.largest_logit)
    if bounds.logit_difference is not None and not parity.logit_difference <= rounding:
        why = f"the largest difference is {parity.logit_difference:.3g}, at most {rounding:.3g} is rounding"
        yield Problem("the export's logits differ from the trained model's", where, why, fix)
    change = parity.loss_change
    if bounds.loss is not None and change is not None and not abs(change) <= bounds.loss:
        why = f"it changes by {change:+.2%}, at most {bounds.loss:.2%} is allowed"
        yield Problem("the export's loss on held-out rows is another", where, why, fix)


def enforce(parity: Parity, bounds: Bounds, where: str, fix: str = FIX) -> None:
    """Nothing if the export is the trained model; otherwise a CheckFailedError with every reason."""
    found = list(problems(parity, bounds, where, fix))
    if found:
        raise CheckFailedError(found)
