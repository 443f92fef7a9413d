"""Task `classify`: a label, several labels or a score for a text or a pair of texts, by a head on an encoder or decoder.

One label: cross-entropy. Several: binary cross-entropy per label, with a threshold each. `num_labels: 1`: squared error
on numbers, or for rows of a better and a worse text a pairwise ranking loss, which is reward modelling (Ouyang et al. 2022,
arXiv 2203.02155 §3.5). With `verbalised` a causal model writes the label's name instead (tasks/verbalise.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.data.rows import Labelled, Preference
from tutelage.data.types import At, Dropped, Row
from tutelage.encode.contract import Fitted
from tutelage.encode.tokens import Text, Tokens, targets_of
from tutelage.encode.types import Encoded, Layout
from tutelage.engine import head_loss
from tutelage.engine.headed import Headed, make_headed
from tutelage.engine.loss import LossSum
from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import DataError, Problem, RecipeError
from tutelage.metrics.types import Prediction
from tutelage.models.types import HeadWanted
from tutelage.registry import suggestion
from tutelage.tasks import verbalise
from tutelage.tasks.batching import per_row
from tutelage.tasks.labels import class_weights, label_names, positive_weights
from tutelage.tasks.scored import Scored
from tutelage.tasks.types import TASKS, Bound, Opening, require_family
from tutelage.taskspec import ClassifySpec

SCORE = "score"


class Classify:
    """Registers the task; `open` chooses between a head and verbalised labels."""

    def accepts(self, spec: ClassifySpec) -> tuple[type, ...]:
        """Texts with labels; with one output also preferences."""
        return (Labelled, Preference) if spec.num_labels == 1 else (Labelled,)

    def open(self, spec: ClassifySpec, opening: Opening) -> Bound:
        """The task with the label names of the training rows."""
        _check_spec(spec)
        rows = [split_labels(row, spec) for row in opening.rows if isinstance(row, Labelled)]
        others = [split_labels(row, spec) for row in opening.others if isinstance(row, Labelled)]
        _check_counts([*rows, *others], spec)
        if spec.num_labels != 1:
            names = label_names(rows, others, _labels, spec.labels)
            _check_thresholds(spec, names)
            if spec.multi_label:
                weights = positive_weights(names, [row.labels for row in rows], spec.class_weights)
            else:
                weights = class_weights(names, [label for row in rows for label in row.labels], spec.class_weights)
            spec = spec.model_copy(update={"labels": list(names), "class_weights": weights})
        if spec.verbalised:
            return verbalise.open_verbalised(spec, opening)
        require_family("classify", opening, "encoder", "decoder")
        causal = opening.family == "decoder"
        tokens = Tokens.of(opening.tokenizer, opening.config, opening.max_tokens, causal=causal)
        return HeadClassifier(spec, tokens, opening.over_length)


TASKS.add("classify")(Classify())


def _labels(row: Row) -> tuple[str, ...]:
    return row.labels if isinstance(row, Labelled) else ()


def split_labels(row: Labelled, spec: ClassifySpec) -> Labelled:
    """The row with a CSV field of several labels taken apart, where the recipe says how."""
    if not spec.multi_label or row.several or spec.separator is None:
        return row
    labels = tuple(part.strip() for label in row.labels for part in label.split(spec.separator) if part.strip())
    return Labelled(row.text, row.at, labels, row.score, row.second, True)


def _check_spec(spec: ClassifySpec) -> None:
    problems = []
    if spec.num_labels == 1 and (spec.multi_label or spec.labels or spec.verbalised or spec.class_weights):
        why = "with one output there are no label names"
        problems.append(
            Problem("`num_labels: 1` excludes labels, multi_label, verbalised and class_weights", "task", why)
        )
    if spec.verbalised and spec.multi_label:
        problems.append(Problem("`verbalised` writes one label", "task.multi_label", fix="multi_label: false"))
    if problems:
        raise RecipeError(problems)


def _check_thresholds(spec: ClassifySpec, names: Sequence[str]) -> None:
    unknown = sorted(set(spec.thresholds) - set(names)) if isinstance(spec.thresholds, dict) else []
    if unknown:
        raise RecipeError(
            [
                Problem(f"`task.thresholds` names an unknown label `{name}`", "task.thresholds", fix=suggestion(name, list(names)))
                for name in unknown
            ]
        )  # fmt: skip


def _check_counts(rows: Sequence[Labelled], spec: ClassifySpec) -> None:
    problems = []
    for row in rows:
        if spec.num_labels == 1 and score_of(row) is None:
            given = ", ".join(row.labels) or "nothing"
            problems.append(
                Problem("the score of this row is no number", str(row.at), f"it is {given}", "write a number")
            )
        elif spec.num_labels != 1 and not spec.multi_label and len(row.labels) != 1:
            why = f"it has {len(row.labels)}: {', '.join(row.labels)}" if row.labels else "it has none"
            problems.append(Problem("this row needs one label", str(row.at), why, "or set task.multi_label: true"))
    if problems:
        raise DataError(problems)


def score_of(row: Labelled) -> float | None:
    """The number that a row is labelled with."""
    if row.score is not None:
        return row.score
    try:
        return float(row.labels[0]) if len(row.labels) == 1 else None
    except ValueError:
        return None


@dataclass(frozen=True)
class HeadClassifier(Scored):
    """`classify` with a head."""

    spec: ClassifySpec
    tokens: Tokens
    over_length: str

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs' names."""
        return tuple(self.spec.labels or (SCORE,))

    @property
    def head(self) -> HeadWanted:
        """A sequence-classification head with the label names."""
        several = "multi_label_classification" if self.spec.multi_label else "single_label_classification"
        return HeadWanted("classify", self.names, "regression" if self.spec.num_labels == 1 else several)

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """A row's targets are its label at its first token (or its last one, see `backbone`)."""
        plain = [split_labels(row, self.spec) for row in rows if isinstance(row, Labelled)]
        texts: list[Text] = [(row.text,) if row.second is None else (row.text, row.second) for row in plain]

        def targets(index: int, encoding: Any) -> Any:
            label, weight = self._label(plain[index])
            return targets_of([self._place(len(encoding.ids))], label, [weight])

        fitted = self.tokens.fit(texts, [row.at for row in plain], self.over_length, targets)
        pairs = [row for row in rows if isinstance(row, Preference)]
        return self._fit_pairs(pairs) if pairs else fitted

    def _place(self, length: int) -> int:
        return length - 1 if self.reads_last else 0

    @property
    def reads_last(self) -> bool:
        """Decoders have read a text only at its last token."""
        return self.tokens.causal

    def _label(self, row: Labelled) -> tuple[NDArray[Any], float]:
        if self.spec.num_labels == 1:
            return np.array([score_of(row)], dtype=np.float32), 1.0
        at = [self.names.index(label) for label in row.labels]
        if not self.spec.multi_label:
            return np.array(at, dtype=np.int64), self._weights[row.labels[0]]
        hot = np.zeros((1, len(self.names)), dtype=np.float32)
        hot[0, at] = 1.0
        return hot, 1.0

    @property
    def _weights(self) -> dict[str, float]:
        given = self.spec.class_weights
        return given if isinstance(given, dict) else dict.fromkeys(self.names, 1.0)

    def _fit_pairs(self, rows: Sequence[Preference]) -> Fitted:
        """A preference is one row of two texts that do not see each other."""
        kept: list[Encoded] = []
        dropped: list[Dropped] = []
        cut = long = 0
        for row in rows:
            texts: list[Text] = [(row.prompt, t) if row.prompt else (t,) for t in (row.better, row.worse)]
            both = self.tokens.encode(texts)
            over = max(len(encoding.ids) for encoding in both) > self.tokens.limit
            long += over
            if over and self.over_length == "drop":
                dropped.append(Dropped("over_length", row.at, f"more than {self.tokens.limit} tokens"))
                continue
            if over:
                cut, both = cut + 1, [self.tokens.cut(text) for text in texts]
            kept.append(self._pair_row(both, row.at, over))
        return Fitted(tuple(kept), tuple(dropped), long, cut, len(rows))

    def _pair_row(self, both: Sequence[Any], at: At, cut: bool) -> Encoded:
        lengths = [len(encoding.ids) for encoding in both]
        halves = [
            self.tokens.row(e, at, targets_of([self._place(n)], np.zeros(1, np.int64), [1.0]))
            for e, n in zip(both, lengths)
        ]
        sources = [self._place(lengths[0]), lengths[0] + self._place(lengths[1])]
        join = np.concatenate
        types = join([half.types for half in halves if half.types is not None]) if self.tokens.typed else None
        return Encoded(
            join([half.ids for half in halves]), join([half.weights for half in halves]),
            join([half.roles for half in halves]), at, cut, targets_of(sources, np.array([1, 0]), [1.0, 0.0]), types,
            parts=tuple(lengths),
        )  # fmt: skip

    def shown(self, row: Encoded) -> str:
        """The label, the labels or the score."""
        labels = row.targets.labels if row.targets is not None else np.zeros(0)
        if row.parts:
            return "better, then worse"
        if labels.dtype.kind == "i":
            return self.names[int(labels[0])]
        if labels.ndim == 2:
            return ", ".join(name for name, holds in zip(self.names, labels[0]) if holds) or "(none)"
        return f"{float(labels[0]):g}"

    def backbone(self, model: Any) -> Headed:
        """The model with its head at the token that the rows were encoded for."""
        backbone = make_headed(model)
        if not backbone.plain_logits and backbone.last != self.reads_last:
            raise RuntimeError(f"{model.config.model_type} pools another token than its family does")
        return backbone

    def loss(self, backbone: Headed, layout: Layout, *, fast: bool = True) -> LossSum:
        """The loss that the labels ask for."""
        scores = backbone.scores(layout, fast=fast)
        if self.spec.num_labels == 1:
            pairs = layout.labels.dtype == torch.int64
            squares = head_loss.squared
            return head_loss.ranked(scores, layout.weights) if pairs else squares(scores, layout.labels, layout.weights)
        if self.spec.multi_label:
            positive = scores.new_tensor([self._weights[name] for name in self.names])
            return head_loss.any_of(scores, layout.labels, layout.weights, positive)
        return head_loss.one_of(scores, layout.labels, layout.weights)

    def predict(self, backbone: Headed, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """The likeliest label, the labels over their thresholds, or the score; of a preference whether it is ranked right."""
        fitted = self.fit(rows)
        by_place = {row.at: row for row in rows}
        values = per_row(fitted.rows, plan, lambda layout: backbone.scores(layout))
        return [self._prediction(by_place[row.at], scores) for row, scores in zip(fitted.rows, values)]

    def _prediction(self, row: Row, scores: torch.Tensor) -> Prediction:
        if isinstance(row, Preference):
            right = bool(scores[0, 0] > scores[1, 0])
            probability = float(torch.sigmoid(scores[0, 0] - scores[1, 0]))
            return Prediction(
                row.at, row.prompt or row.better, "better", "better" if right else "worse",
                {"better": probability, "worse": 1 - probability},
            )  # fmt: skip
        assert isinstance(row, Labelled)
        row = split_labels(row, self.spec)
        text = row.text if row.second is None else f"{row.text}\n{row.second}"
        if self.spec.num_labels == 1:
            return Prediction(row.at, text, score_of(row) or 0.0, float(scores[0, 0]))
        if self.spec.multi_label:
            chances = dict(zip(self.names, torch.sigmoid(scores[0]).tolist()))
            found = tuple(name for name, chance in chances.items() if chance >= self._threshold(name))
            return Prediction(row.at, text, tuple(sorted(row.labels)), found, chances)
        chances = dict(zip(self.names, torch.softmax(scores[0], -1).tolist()))
        return Prediction(
            row.at, text, row.labels[0] if row.labels else "", max(chances, key=chances.__getitem__), chances
        )

    def _threshold(self, name: str) -> float:
        given = self.spec.thresholds
        return given.get(name, 0.5) if isinstance(given, dict) else given
