"""Task `text`: continued training on unlabelled text, the honest comparison to labelled rows.

Causal models predict every token; texts that are too long are cut into blocks. Encoders predict masked tokens (Devlin et
al. 2018, arXiv 1810.04805 §3.1: of the chosen ones 80 % become the mask, 10 % a random token, 10 % stay), chosen anew in
each epoch as a function of seed, epoch and row (Liu et al. 2019, arXiv 1907.11692 §4.1).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tutelage.data.rows import Plain
from tutelage.data.types import Row
from tutelage.encode.contract import Contract, Fitted
from tutelage.encode.template import Template
from tutelage.encode.tokens import TEMPLATE, USER, Tokens, targets_of
from tutelage.encode.types import Encoded, Layout
from tutelage.engine.backbone import Backbone, make_backbone
from tutelage.engine.headed import Headed
from tutelage.engine.loss import LossSum, reference_from_logits
from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import RecipeError
from tutelage.metrics.types import Prediction
from tutelage.models.types import HeadWanted
from tutelage.tasks import chat
from tutelage.tasks.batching import packed
from tutelage.tasks.likelihood import likelihood
from tutelage.tasks.scored import Scored
from tutelage.tasks.shown import examine_tokens, token_examples
from tutelage.tasks.types import TASKS, Bound, Opening, require_family
from tutelage.taskspec import TextSpec


class Text:
    """Registers the task; the objective follows from the model where the recipe does not say it."""

    def accepts(self, spec: TextSpec) -> tuple[type, ...]:
        """Plain texts."""
        return (Plain,)

    def open(self, spec: TextSpec, opening: Opening) -> Bound:
        """Causal for decoders, masked for encoders."""
        require_family("text", opening, "decoder", "encoder")
        fitting = "causal" if opening.family == "decoder" else "masked"
        if spec.objective not in ("auto", fitting):
            raise RecipeError(
                f"`task.objective: {spec.objective}` does not fit this model", where="task.objective",
                why=f"a {opening.config.get('model_type')} model was trained otherwise", fix=f"objective: {fitting}",
            )  # fmt: skip
        causal = fitting == "causal"
        tokens = Tokens.of(opening.tokenizer, opening.config, opening.max_tokens, causal=causal)
        spec = spec.model_copy(update={"objective": fitting})
        if causal:
            return CausalText(spec, tokens)
        if opening.tokenizer.mask_token_id is None:
            raise RecipeError("this model's tokenizer has no mask token", where="task.objective")
        return MaskedText(spec, tokens)


TASKS.add("text")(Text())


def blocks(tokens: Tokens, rows: Sequence[Row], lead: list[int], behind: list[int]) -> list[tuple[Row, list[int], int]]:
    """(row, ids, special tokens at its start) of each block; a block that could predict nothing is left out."""
    found: list[tuple[Row, list[int], int]] = []
    for row in rows:
        assert isinstance(row, Plain)
        ids = tokens.backend.encode(row.text, add_special_tokens=False).ids
        room = tokens.limit - len(lead) - len(behind)
        for start in range(0, len(ids), room):
            part = ids[start : start + room]
            last = behind if start + room >= len(ids) or not tokens.causal else []
            if len(lead) + len(part) + len(last) > 1:
                found.append((row, [*lead, *part, *last], len(lead)))
    return found


@dataclass(frozen=True)
class CausalText:
    """`text` by a causal model."""

    spec: TextSpec
    tokens: Tokens
    template: Template | None = None

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.tokens.tokenizer

    @property
    def head(self) -> HeadWanted:
        """The language-model head."""
        return HeadWanted("causal")

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """Blocks of at most the limit; the last one of a text ends in the end-of-sequence token."""
        lead, _ = self.tokens.frame()
        eos = self.tokenizer.eos_token_id
        made = blocks(self.tokens, rows, lead, [] if eos is None else [eos])
        return Fitted(
            tuple(self._row(row, ids, n) for row, ids, n in made), (), max(0, len(made) - len(rows)), 0, len(rows)
        )

    def _row(self, row: Row, ids: list[int], lead: int) -> Encoded:
        weights = np.ones(len(ids), dtype=np.float32)
        weights[: max(lead, 1)] = 0.0
        roles = np.full(len(ids), USER, dtype=np.uint8)
        roles[:lead] = TEMPLATE
        return Encoded(np.asarray(ids, dtype=np.int32), weights, roles, row.at)

    def contract(self, rows: Sequence[Row], fitted: Fitted) -> Contract:
        """Counts."""
        return examine_tokens(fitted, None)

    def examples(self, fitted: Fitted, first: int) -> list[dict[str, Any]]:
        """Texts, all of it trained."""
        return token_examples(self.tokenizer, fitted, first)

    def backbone(self, model: Any) -> Backbone:
        """The causal backbone."""
        return make_backbone(model)

    def layouts(self, rows: Sequence[Encoded], plan: ExecutionPlan) -> list[Layout]:
        """Packed blocks."""
        return packed(rows, plan)

    def loss(self, backbone: Backbone, layout: Layout, *, fast: bool = True) -> LossSum:
        """Next-token loss."""
        return chat.loss(backbone, layout, fast=fast)

    def predict(self, backbone: Any, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """How likely the model finds each text."""
        return likelihoods(self, backbone, rows, plan)


@dataclass(frozen=True)
class MaskedText(Scored):
    """`text` by an encoder."""

    spec: TextSpec
    tokens: Tokens

    @property
    def head(self) -> HeadWanted:
        """The pre-trained head for masked words."""
        return HeadWanted("masked")

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """Blocks with masks that depend on their tokens only; training draws others, see `vary`."""
        made = blocks(self.tokens, rows, *self.tokens.frame())
        kept = [self._row(row, ids) for row, ids, _ in made]
        return Fitted(tuple(kept), (), max(0, len(made) - len(rows)), 0, len(rows))

    def _row(self, row: Row, ids: list[int]) -> Encoded:
        array = np.asarray(ids, dtype=np.int32)
        special = np.isin(array, self.tokenizer.all_special_ids)
        types = np.zeros(len(ids), dtype=np.uint8) if self.tokens.typed else None
        roles = np.where(special, TEMPLATE, USER).astype(np.uint8)
        plain = Encoded(array, np.zeros(len(ids), np.float32), roles, row.at, types=types)
        seed = int.from_bytes(hashlib.blake2b(array.tobytes(), digest_size=8).digest(), "big")
        return self._masked(plain, np.random.Generator(np.random.Philox(key=seed)))

    def vary(self, row: Encoded, draw: np.random.Generator) -> Encoded:
        """The row with other tokens masked."""
        ids = row.ids.copy()
        if row.targets is not None:
            ids[row.targets.sources] = row.targets.labels
        return self._masked(replace(row, ids=ids, targets=None), draw)

    def _masked(self, row: Encoded, draw: np.random.Generator) -> Encoded:
        may = np.flatnonzero(row.roles == USER)
        count = max(1, round(self.spec.masked_share * len(may)))
        at = np.sort(draw.permutation(may)[:count])
        ids, kind = row.ids.copy(), draw.random(len(at))
        labels = row.ids[at].astype(np.int64)
        ids[at[kind < 0.8]] = self.tokenizer.mask_token_id
        swapped = at[(kind >= 0.8) & (kind < 0.9)]
        ids[swapped] = draw.integers(0, len(self.tokenizer), len(swapped))
        weights = np.zeros(len(ids), dtype=np.float32)
        weights[at] = 1.0
        return replace(row, ids=ids, weights=weights, targets=targets_of(at.tolist(), labels, [1.0] * len(at)))

    def shown(self, row: Encoded) -> str:
        """The words behind the masks."""
        labels = [] if row.targets is None else row.targets.labels.tolist()
        return " ".join(str(self.tokenizer.decode([label])) for label in labels)

    def loss(self, backbone: Headed, layout: Layout, *, fast: bool = True) -> LossSum:
        """Cross-entropy over the vocabulary at the masked tokens."""
        return reference_from_logits(backbone.scores(layout, fast=fast), layout.labels, layout.weights)

    def predict(self, backbone: Any, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """How likely the model finds the masked tokens of each text (masks as in validation)."""
        return likelihoods(self, backbone, rows, plan)


def likelihoods(
    task: CausalText | MaskedText, backbone: Any, rows: Sequence[Row], plan: ExecutionPlan
) -> list[Prediction]:
    """The negative log-likelihood of each text's targets, summed over its blocks."""
    found = []
    for row in rows:
        assert isinstance(row, Plain)
        likely = likelihood(task, backbone, task.fit([row]).rows, row.text, plan)
        found.append(Prediction(row.at, row.text[:80], row.text, "", likelihood=likely))
    return found
