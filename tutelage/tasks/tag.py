"""Task `tag`: a tag per word (named entities). The first sub-token of a word carries its tag; the others are not trained.

Words are tokenised with their own edges kept, so that a sub-token never spans two words. A text that is longer than the
model reads is cut into overlapping windows, and each word is trained and predicted in one of them only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tutelage.data.rows import Tagged
from tutelage.data.types import Dropped, Row
from tutelage.encode.contract import Fitted
from tutelage.encode.tokens import TEMPLATE, USER, Tokens, targets_of
from tutelage.encode.types import Encoded, Layout
from tutelage.engine import head_loss
from tutelage.engine.headed import Headed
from tutelage.engine.loss import LossSum
from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import DataError
from tutelage.metrics.types import Prediction
from tutelage.models.types import HeadWanted
from tutelage.tasks.batching import per_row
from tutelage.tasks.labels import label_names
from tutelage.tasks.schemes import as_bio, check_scheme, scheme_of
from tutelage.tasks.scored import Scored
from tutelage.tasks.types import TASKS, Opening, require_family
from tutelage.tasks.windows import owner, windows
from tutelage.taskspec import TagSpec


class Tag:
    """Registers the task."""

    def accepts(self, spec: TagSpec) -> tuple[type, ...]:
        """Tagged words."""
        return (Tagged,)

    def open(self, spec: TagSpec, opening: Opening) -> "Tagger":
        """The task with the tags of the training rows, as BIO."""
        require_family("tag", opening, "encoder", "decoder")
        rows = [row for row in opening.rows if isinstance(row, Tagged)]
        others = [row for row in opening.others if isinstance(row, Tagged)]
        if rows:
            rows = [_named(row, spec) for row in rows]
            others = [_named(row, spec) for row in others]
            given = spec.scheme if spec.scheme != "auto" else scheme_of(row.tags for row in rows)
            if given != "none":
                rows, others = ([replace(row, tags=_bio(row, spec)) for row in part] for part in (rows, others))
            told = spec.labels
            if told is None and given != "none":  # a place of two words has its second tag, if no training row has, too
                told = sorted({tag for row in rows for tag in row.tags})
            known = None if told is None else _closed(told)
            names = sorted(label_names(rows, others, _tags, known), key=lambda tag: (tag != "O", tag[2:], tag))
            spec = spec.model_copy(update={"labels": names if spec.labels is None or given != "none" else spec.labels})
        causal = opening.family == "decoder"
        tagger = Tagger(spec, Tokens.of(opening.tokenizer, opening.config, opening.max_tokens, causal=causal))
        if not rows:
            label_names((), [replace(row, tags=tagger.tags_of(row)) for row in others], _tags, tagger.names)
        return tagger


TASKS.add("tag")(Tag())


def _tags(row: Row) -> tuple[str, ...]:
    return row.tags if isinstance(row, Tagged) else ()


def _closed(labels: list[str]) -> list[str]:
    """The BIO tags of all kinds among labels, whatever scheme they are written in."""
    kinds = {tag for label in labels for tag in as_bio([label])}
    return sorted({*labels, *kinds, *(f"I-{tag[2:]}" for tag in kinds if tag.startswith("B-"))})


def _named(row: Tagged, spec: TagSpec) -> Tagged:
    """Numbers as tags are indices into the recipe's labels."""
    if not all(tag.isdigit() for tag in row.tags):
        return row
    if spec.labels is None:
        raise DataError(
            "the tags of this row are numbers", where=str(row.at), why="nothing says what they mean",
            fix="write tag names, or list them in order: task.labels: [O, B-person, ...]",
        )  # fmt: skip
    over = [tag for tag in row.tags if int(tag) >= len(spec.labels)]
    if over:
        raise DataError(
            f"the tag number {over[0]} is not in task.labels", where=str(row.at), why=f"{len(spec.labels)} are"
        )
    return replace(row, tags=tuple(spec.labels[int(tag)] for tag in row.tags))


def _bio(row: Tagged, spec: TagSpec) -> tuple[str, ...]:
    if spec.scheme != "auto":
        check_scheme(row.tags, spec.scheme, str(row.at))
    return as_bio(row.tags)


@dataclass(frozen=True, slots=True)
class _Window:
    row: Encoded
    words: tuple[int, ...]  # the words that are scored in it, in the order of its targets


@dataclass(frozen=True, slots=True)
class Tags:
    """What a model makes of one row: a tag and its probability for each word, and how many tokens were read for it."""

    names: tuple[str, ...]
    chances: tuple[float, ...]
    tokens: int


@dataclass(frozen=True)
class Tagger(Scored):
    """`tag` with its tag names."""

    spec: TagSpec
    tokens: Tokens

    @property
    def names(self) -> list[str]:
        """The tags."""
        return self.spec.labels or ["O"]

    @property
    def head(self) -> HeadWanted:
        """A token-classification head with the tag names."""
        return HeadWanted("tag", tuple(self.names))

    def tags_of(self, row: Tagged) -> tuple[str, ...]:
        """The row's tags as this task writes them."""
        row = _named(row, self.spec)
        return (
            row.tags
            if any(tag in self.names and tag != "O" and tag[1:2] != "-" for tag in row.tags)
            else as_bio(row.tags)
        )

    def windows_of(self, row: Tagged) -> list[_Window]:
        """The row as one window, or several where it is too long; a word without sub-tokens is scored nowhere."""
        pieces = [
            self.tokens.backend.encode(word, add_special_tokens=False) for word in _spaced(row.words, self.tokens)
        ]
        ids = [i for piece in pieces for i in piece.ids]
        word_of = [index for index, piece in enumerate(pieces) for _ in piece.ids]
        before, behind = self.tokens.frame()
        room = self.tokens.limit - len(before) - len(behind)
        places = list(windows(len(ids), room, min(self.spec.stride, room // 2)))
        first: dict[int, int] = {}
        for token, word in enumerate(word_of):
            first.setdefault(word, token)
        scored: dict[int, list[int]] = {index: [] for index in range(len(places))}
        for word, token in first.items():
            scored[owner(places, token)].append(word)
        tags = self.tags_of(row)
        number = {name: index for index, name in enumerate(self.names)}
        made = []
        for index, (start, stop) in enumerate(places):
            words = tuple(scored[index])
            at = [len(before) + first[word] - start for word in words]
            labels = np.array([number.get(tags[word], 0) for word in words], dtype=np.int64)
            made.append(
                _Window(self._encoded(row, [*before, *ids[start:stop], *behind], len(before), at, labels), words)
            )
        return made

    def _encoded(self, row: Tagged, ids: list[int], lead: int, at: list[int], labels: Any) -> Encoded:
        array = np.asarray(ids, dtype=np.int32)
        roles = np.full(len(ids), USER, dtype=np.uint8)
        roles[:lead] = TEMPLATE
        weights = np.zeros(len(ids), dtype=np.float32)
        weights[at] = 1.0
        types = np.zeros(len(ids), dtype=np.uint8) if self.tokens.typed else None
        return Encoded(array, weights, roles, row.at, targets=targets_of(at, labels, [1.0] * len(at)), types=types)

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """Every window of every row; nothing is too long."""
        kept: list[Encoded] = []
        dropped: list[Dropped] = []
        long = 0
        for row in rows:
            assert isinstance(row, Tagged)
            made = self.windows_of(row)
            long += len(made) > 1
            scored = [window.row for window in made if window.words]
            kept += scored
            if not scored:
                dropped.append(Dropped("no_tokens", row.at, "the tokenizer has no token for any of its words"))
        return Fitted(tuple(kept), tuple(dropped), long, 0, len(rows))

    def shown(self, row: Encoded) -> str:
        """The tags."""
        labels = row.targets.labels.tolist() if row.targets is not None else []
        return " ".join(self.names[label] for label in labels)

    def loss(self, backbone: Headed, layout: Layout, *, fast: bool = True) -> LossSum:
        """Cross-entropy over tags, summed over words."""
        return head_loss.one_of(backbone.scores(layout, fast=fast), layout.labels, layout.weights)

    def predict(self, backbone: Headed, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """The likeliest tag of each word; a word that the tokenizer has no token for is outside."""
        tagged = [row for row in rows if isinstance(row, Tagged)]
        return [
            Prediction(row.at, " ".join(row.words), self.tags_of(row), tags.names)
            for row, tags in zip(tagged, self.tag(backbone, tagged, plan))
        ]

    def tag(self, backbone: Headed, rows: Sequence[Tagged], plan: ExecutionPlan) -> list[Tags]:
        """The likeliest tag of each row's words with its probability; what the tokenizer has no token for is outside."""
        made = [[window for window in self.windows_of(row) if window.words] for row in rows]
        scores = iter(per_row([w.row for found in made for w in found], plan, lambda layout: backbone.scores(layout)))
        result = []
        for row, found in zip(rows, made):
            names, chances = ["O"] * len(row.words), [1.0] * len(row.words)
            for window in found:
                best = torch.softmax(next(scores), -1).max(-1)
                for word, label, chance in zip(window.words, best.indices.tolist(), best.values.tolist()):
                    names[word], chances[word] = self.names[label], chance
            result.append(Tags(tuple(names), tuple(chances), sum(len(window.row.ids) for window in found)))
        return result


def _spaced(words: Sequence[str], tokens: Tokens) -> list[str]:
    """Words as they stand in a text: byte-level tokenizers write the space before a word into its token."""
    return [f" {word}" if index and tokens.spaced else word for index, word in enumerate(words)]
