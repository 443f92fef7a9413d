"""Task `extract`: the part of a context that answers a question (Rajpurkar et al. 2016, arXiv 1606.05250).

A context that is too long for one row is read in overlapping windows, each behind the question. In a window that does
not hold the answer, start and end are the first token, which also means "no answer" (Devlin et al. 2018, arXiv 1810.04805
§4.3). The loss is the mean cross-entropy of start and end over the tokens of a window.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.data.rows import Question
from tutelage.data.types import Dropped, Row
from tutelage.encode.contract import Fitted
from tutelage.encode.tokens import TEMPLATE, USER, Tokens, targets_of
from tutelage.encode.types import Encoded, Layout
from tutelage.engine.headed import Headed
from tutelage.engine.loss import LossSum
from tutelage.engine.precision import ExecutionPlan
from tutelage.metrics.types import Prediction
from tutelage.models.types import HeadWanted
from tutelage.tasks.batching import per_row
from tutelage.tasks.scored import Scored
from tutelage.tasks.types import TASKS, Opening, require_family
from tutelage.tasks.windows import windows
from tutelage.taskspec import ExtractSpec

BEST = 20  # starts and ends that are combined


class Extract:
    """Registers the task."""

    def accepts(self, spec: ExtractSpec) -> tuple[type, ...]:
        """Questions on contexts."""
        return (Question,)

    def open(self, spec: ExtractSpec, opening: Opening) -> "Extractor":
        """The task for an encoder: a decoder scores a token before it has read what follows."""
        require_family("extract", opening, "encoder")
        asked = [row for row in opening.rows if isinstance(row, Question)]
        if asked and spec.no_answer is None:
            spec = spec.model_copy(update={"no_answer": any(not row.answers for row in asked)})
        return Extractor(spec, Tokens.of(opening.tokenizer, opening.config, opening.max_tokens))


TASKS.add("extract")(Extract())


@dataclass(frozen=True, slots=True)
class _Window:
    row: Encoded
    context: int  # where the context's tokens begin in the row
    offsets: tuple[tuple[int, int], ...]  # characters of each of them


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model finds for one question: characters [start, stop) of its context, or nothing where both are 0.

    `chance` is its probability among all spans of all windows. `nothing` is by how much the score of no answer is better.
    """

    start: int
    stop: int
    chance: float
    nothing: float
    tokens: int  # that were read for it; none where the question leaves no room for its context


@dataclass(frozen=True)
class Extractor(Scored):
    """`extract` with a tokenizer."""

    spec: ExtractSpec
    tokens: Tokens

    @property
    def head(self) -> HeadWanted:
        """A question-answering head: a score as start and one as end for each token."""
        return HeadWanted("extract")

    def windows_of(self, row: Question) -> list[_Window]:
        """The question before each window of the context; none where the question alone fills a row."""
        lead, between, behind = self.tokens.pair_frame()
        asked = self.tokens.backend.encode(row.question, add_special_tokens=False).ids
        context = self.tokens.backend.encode(row.context, add_special_tokens=False)
        before = [*lead, *asked, *between]
        room = self.tokens.limit - len(before) - len(behind)
        if room < 8 or not context.ids:
            return []
        made = []
        for start, stop in windows(len(context.ids), room, min(self.spec.stride, room // 2)):
            offsets = tuple(context.offsets[start:stop])
            ids = np.asarray([*before, *context.ids[start:stop], *behind], dtype=np.int32)
            made.append(
                _Window(self._encoded(row, ids, len(before), len(lead) + len(asked), offsets), len(before), offsets)
            )
        return made

    def _encoded(
        self, row: Question, ids: Any, context: int, asked: int, offsets: Sequence[tuple[int, int]]
    ) -> Encoded:
        roles = np.full(len(ids), USER, dtype=np.uint8)
        roles[asked:context] = TEMPLATE
        first, last = self._marked(row, offsets)
        at = [0, 0] if first is None or last is None else [context + first, context + last]
        weights = np.zeros(len(ids), dtype=np.float32)
        weights[at] = 1.0
        types = None
        if self.tokens.typed:
            types = np.zeros(len(ids), dtype=np.uint8)
            types[context:] = 1
        everywhere = targets_of(range(len(ids)), np.zeros(len(ids), np.int64), [0.0] * len(ids))
        everywhere.labels[at[0]] += 1  # bit 0: the answer starts here; bit 1: it ends here
        everywhere.labels[at[1]] += 2
        everywhere.weights[0] = 1.0  # a window counts once
        return Encoded(ids, weights, roles, row.at, targets=everywhere, types=types)

    @staticmethod
    def _marked(row: Question, offsets: Sequence[tuple[int, int]]) -> tuple[int | None, int | None]:
        """The first and last token of the first answer that stands whole in this window."""
        for text, start in row.answers[:1]:
            stop = start + len(text.rstrip())
            inside = [i for i, (a, b) in enumerate(offsets) if a < stop and b > start]
            if inside and offsets[0][0] <= start and offsets[-1][1] >= stop:
                return inside[0], inside[-1]
        return None, None

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """Every window of every question."""
        kept: list[Encoded] = []
        dropped: list[Dropped] = []
        long = 0
        for row in rows:
            assert isinstance(row, Question)
            made = self.windows_of(row)
            long += len(made) > 1
            kept += [window.row for window in made]
            if not made:
                dropped.append(Dropped("over_length", row.at, "the question leaves no room for its context"))
        return Fitted(tuple(kept), tuple(dropped), long, 0, len(rows))

    def shown(self, row: Encoded) -> str:
        """The answer."""
        labels = row.targets.labels if row.targets is not None else np.zeros(1, dtype=np.int64)
        first, last = int(np.flatnonzero(labels & 1)[0]), int(np.flatnonzero(labels & 2)[0])
        return (
            "(no answer in this window)"
            if last == 0
            else str(self.tokenizer.decode(row.ids[first : last + 1].tolist()))
        )

    def loss(self, backbone: Headed, layout: Layout, *, fast: bool = True) -> LossSum:
        """(cross-entropy of the start + of the end) / 2, each over the tokens of its window."""
        scores, begins = backbone.scores(layout, fast=fast), layout.weights > 0
        window, count = begins.cumsum(0) - 1, int(begins.sum())  # the window of each target
        weights = layout.weights.new_zeros(count).index_add_(0, window, layout.weights).to(scores.dtype)
        empty = scores.new_full((count, 2), -math.inf)
        top = empty.scatter_reduce(0, window[:, None].expand(-1, 2), scores.detach(), "amax")[window]
        norm = scores.new_zeros(count, 2).index_add(0, window, (scores - top).exp())
        truth = torch.stack((layout.labels & 1, layout.labels & 2), 1) != 0  # one token of each window and column
        losses = (top + norm[window].log() - scores) * truth
        total = (losses.sum(1) * weights[window]).sum() / 2
        right = scores.new_zeros(count, 2).index_add_(0, window, (truth & (scores >= top)).to(scores.dtype)) > 0
        return LossSum(total, float(total.detach()), int(right.all(1).sum()))

    def predict(self, backbone: Headed, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """The best span over all windows, or none where the first token's score is better by more than the threshold."""
        asked = [row for row in rows if isinstance(row, Question)]
        known = self.spec.no_answer
        may_be_none = any(not row.answers for row in asked) if known is None else known
        return [
            Prediction(
                row.at, row.question, tuple(dict.fromkeys(text for text, _ in row.answers)),
                row.context[found.start : found.stop], {"no answer": found.nothing}, group=row.context[:80],
                context=row.context,
            )
            for row, found in zip(asked, self.answer(backbone, asked, plan, may_be_none=may_be_none))
            if found.tokens  # else the question leaves no room for its context
        ]  # fmt: skip

    def answer(
        self, backbone: Headed, rows: Sequence[Question], plan: ExecutionPlan, *, may_be_none: bool
    ) -> list[Answer]:
        """The best span for each question; with `may_be_none`, nothing where that is better by more than the threshold."""
        made = [self.windows_of(row) for row in rows]
        scores = iter(per_row([w.row for found in made for w in found], plan, lambda layout: backbone.scores(layout)))
        return [self._answered([(window, next(scores)) for window in found], may_be_none) for found in made]

    def _answered(self, windows: Sequence[tuple[_Window, Tensor]], may_be_none: bool) -> Answer:
        best, nothing, whole = (-float("inf"), 0, 0), float("inf"), []
        for window, values in windows:
            nothing = min(nothing, float(values[0].sum()))
            best = max(best, self._best(values, window), key=lambda span: span[0])
            places = torch.cat((values[:1], values[window.context : window.context + len(window.offsets)]))
            whole.append(torch.logsumexp(places, 0).sum())  # of exp(start + end) over all pairs of places
        score, start, stop = best
        if may_be_none and nothing - score > self.spec.no_answer_threshold:
            start, stop = 0, 0
        sure = score if stop > 0 else nothing
        chance = math.exp(sure - float(torch.logsumexp(torch.stack(whole), 0))) if whole else 0.0
        return Answer(start, stop, chance, nothing - score, sum(len(window.row.ids) for window, _ in windows))

    def _best(self, values: Tensor, window: _Window) -> tuple[float, int, int]:
        """(score, first character, behind the last one) of the best span inside the window's context."""
        stop = window.context + len(window.offsets)
        starts, ends = values[window.context : stop, 0], values[window.context : stop, 1]
        best = (-float("inf"), 0, 0)
        for first in starts.topk(min(BEST, len(starts))).indices.tolist():
            reach = ends[first : first + self.spec.max_answer_tokens]
            last = first + int(reach.argmax())
            score = float(starts[first] + ends[last])
            if score > best[0]:
                best = (score, window.offsets[first][0], window.offsets[last][1])
        return best
