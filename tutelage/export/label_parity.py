"""The parity gate of models that label, mark, answer, rewrite or embed: held-out rows, predicted by both and compared."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tutelage.errors import CheckFailedError, Problem
from tutelage.metrics.types import Prediction

MOST_DIFFERENCE = 1e-3  # of a score that is the output itself, and of a vector's numbers: float32's rounding


@dataclass(frozen=True)
class LabelParity:
    """What the gate saw. `logit_difference` is the largest of all scores (of an encoder: of all numbers of its vectors)."""

    runner: str
    rows: int
    held_out: bool  # whether the rows were held out of training
    same: int  # rows with the same labels, tags or answer
    logit_difference: float
    texts: int  # texts whose tokenisation was compared
    same_texts: int
    written: bool = False  # the rows' outputs are texts that were written, token by token

    @property
    def may_part(self) -> int:
        """How many rows may differ. Where two tokens are as likely, rounding decides, and all that is written behind them is
        other: one text of 100, if the logits of the rows' own targets are the same."""
        return max(1, self.rows // 100) if self.written and self.logit_difference <= MOST_DIFFERENCE else 0

    def as_json(self) -> dict[str, Any]:
        """The figures as parity.json holds them."""
        return asdict(self)

    def as_text(self) -> str:
        """The card's section."""
        rows = "held-out rows" if self.held_out else "rows that were not held out of training"
        return "\n".join(
            [
                "## Is this the model that was trained?", "",
                f"Predicted by {self.runner} and by the trained model:", "",
                f"- {self.same} of {self.rows} {rows} have the same labels, tags, answers, texts or vectors",
                f"- largest difference of a score before softmax, or of a vector's number: {self.logit_difference:.3g}",
                f"- {self.same_texts} of {self.texts} texts tokenise identically",
            ]
        )  # fmt: skip


def same_outputs(ours: Sequence[Prediction], theirs: Sequence[Prediction]) -> int:
    """How many predictions are the same; scores may differ by rounding."""
    count = 0
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a.output, float) and isinstance(b.output, float):
            count += abs(a.output - b.output) <= MOST_DIFFERENCE * max(1.0, abs(a.output))
        else:
            count += a.output == b.output
    return count


def widest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of two tensors; infinite where they have other shapes, or hold what is no number."""
    if ours.shape != theirs.shape:
        return float("inf")
    worst = float((ours.float() - theirs.float()).abs().max())
    return worst if worst == worst else float("inf")  # NaN differs from everything


def problems(parity: LabelParity, where: str) -> Iterator[Problem]:
    """A sentence for everything by which the export is not the trained model."""
    fix = "nothing was exported; report this as a bug"
    if parity.rows - parity.same > parity.may_part:
        other = parity.rows - parity.same
        why = f"the largest difference of a score is {parity.logit_difference:.3g}"
        yield Problem(f"the export predicts {other} of {parity.rows} rows otherwise", where, why, fix)
    if parity.logit_difference != parity.logit_difference:
        yield Problem("the export computes scores that are no numbers", where, "", fix)
    if parity.same_texts != parity.texts:
        other = parity.texts - parity.same_texts
        yield Problem(f"the export tokenises {other} of {parity.texts} texts otherwise", where, "", fix)


def enforce(parity: LabelParity, where: str) -> None:
    """Nothing if the export is the trained model; otherwise a CheckFailedError with every reason."""
    found = list(problems(parity, where))
    if found:
        raise CheckFailedError(found)
