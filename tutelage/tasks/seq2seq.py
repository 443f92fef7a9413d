"""Task `seq2seq`: a target text for a source text (summaries, translations), by an encoder-decoder or a causal model.

An encoder-decoder reads the source behind the recipe's prefix (T5's convention, Raffel et al. 2020, arXiv 1910.10683 §2.4)
and writes the target from the model's own start token. A causal chat model gets the source inside an instruction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from tutelage.data.rows import Pair
from tutelage.data.types import At, Conversation, Dropped, Message, Row
from tutelage.encode.contract import Contract, Fitted
from tutelage.encode.padded import Padded, buckets, pad
from tutelage.encode.pairs import PairTokens, pair_tokens
from tutelage.encode.template import ROLES, Template
from tutelage.encode.tokens import context
from tutelage.encode.types import Encoded
from tutelage.engine.backbone import Backbone
from tutelage.engine.loss import LossSum, linear_cross_entropy, losses_from_logits, reference_from_logits, token_losses
from tutelage.engine.paired import Paired, make_paired
from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import RecipeError
from tutelage.generate.answer import text_of
from tutelage.generate.batch import generate
from tutelage.generate.decode import context_limit
from tutelage.metrics.types import Prediction
from tutelage.models.types import HeadWanted
from tutelage.tasks.asked import Asked
from tutelage.tasks.chat import BoundChat, open_chat, with_system
from tutelage.tasks.chat_answers import likelihoods, longer_than
from tutelage.tasks.likelihood import likelihood
from tutelage.tasks.shown import examine_tokens, paired_examples
from tutelage.tasks.types import TASKS, Bound, Opening, require_family
from tutelage.taskspec import ChatSpec, Seq2SeqSpec

ASSISTANT = ROLES.index("assistant")


class Seq2Seq:
    """Registers the task; the model's family decides how it is done."""

    def accepts(self, spec: Seq2SeqSpec) -> tuple[type, ...]:
        """Pairs of source and target."""
        return (Pair,)

    def open(self, spec: Seq2SeqSpec, opening: Opening) -> Bound:
        """The task for an encoder-decoder or a decoder."""
        require_family("seq2seq", opening, "encoder-decoder", "decoder")
        if "{source}" not in spec.instruction:
            raise RecipeError(
                "`task.instruction` has no place for the source", where="task.instruction", fix="write {source} in it"
            )
        if opening.family == "decoder":
            chat = ChatSpec(system=spec.system, chat_template=spec.chat_template, allow=spec.allow)
            return CausalPairs(spec, open_chat(chat, opening))
        # T5's n_positions is what it was pre-trained on; its positions are relative. BART's table of positions ends.
        places = {
            key: value for key, value in opening.config.items() if key in ("model_type", "max_position_embeddings")
        }
        most = context(places)
        if spec.max_target_tokens > most:
            raise RecipeError(
                f"the model writes at most {most} tokens", where="task.max_target_tokens",
                why=f"its config says so, and {spec.max_target_tokens} are asked for", fix=f"max_target_tokens: {most}",
            )  # fmt: skip
        tokens = pair_tokens(opening.tokenizer, places, opening.max_tokens)
        start = opening.config.get("decoder_start_token_id", opening.config.get("bos_token_id"))
        if start is None:
            raise RecipeError("this model's config names no decoder_start_token_id", where="model")
        return Pairs(spec, tokens, opening.over_length, int(start), int(opening.config.get("pad_token_id") or 0))


TASKS.add("seq2seq")(Seq2Seq())


@dataclass(frozen=True)
class Written:
    """One text that the model wrote. `tokens`: with the one that ended it; `ended` as in a `Prediction`."""

    text: str
    ended: Literal["stop", "length"]
    tokens: int


@dataclass(frozen=True)
class Pairs:
    """`seq2seq` by an encoder-decoder."""

    spec: Seq2SeqSpec
    tokens: PairTokens
    over_length: str
    start: int
    pad_id: int
    template: Template | None = None

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.tokens.tokenizer

    @property
    def head(self) -> HeadWanted:
        """The language-model head of the decoder."""
        return HeadWanted("seq2seq")

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """Source and first target of each row as tokens."""
        pairs = [row for row in rows if isinstance(row, Pair)]
        read = self.tokens.read([self.spec.prefix + row.source for row in pairs])
        written = self.tokens.write([row.targets[0] for row in pairs])
        kept: list[Encoded] = []
        dropped: list[Dropped] = []
        long = 0
        for row, source, target in zip(pairs, read, written):
            over = len(source) > self.tokens.limit or len(target) > self.spec.max_target_tokens
            long += over
            if over and self.over_length == "drop":
                most = f"{self.tokens.limit} for {self.spec.max_target_tokens} fit"
                detail = f"{len(source)} tokens for {len(target)}, {most}"
                dropped.append(Dropped("over_length", row.at, detail))
                continue
            kept.append(self.encoded(self.tokens.cut(source), target[: self.spec.max_target_tokens], row.at, over))
        return Fitted(tuple(kept), tuple(dropped), long, long - len(dropped), len(pairs))

    def encoded(self, source: list[int], target: list[int], at: At, cut: bool = False) -> Encoded:
        """The ids of a source and of what is to be written for it, all of which is scored."""
        ids = np.asarray([self.start, *target], dtype=np.int32)
        weights = np.ones(len(ids), dtype=np.float32)
        weights[0] = 0.0
        roles = np.full(len(ids), ASSISTANT, dtype=np.uint8)
        roles[0] = 0
        return Encoded(ids, weights, roles, at, cut, source=np.asarray(source, dtype=np.int32))

    def contract(self, rows: Sequence[Row], fitted: Fitted) -> Contract:
        """Counts, and that targets end in the token that ends writing."""
        return examine_tokens(fitted, self.tokenizer.eos_token_id)

    def examples(self, fitted: Fitted, first: int) -> list[dict[str, Any]]:
        """Sources with their targets behind them."""
        return paired_examples(self.tokens, fitted, first)

    def backbone(self, model: Any) -> Paired:
        """The model, its generation settings those of the recipe."""
        settings = model.generation_config
        settings.max_length, settings.max_new_tokens = None, self.spec.max_target_tokens
        settings.num_beams, settings.length_penalty = self.spec.num_beams, self.spec.length_penalty
        return make_paired(model)

    def layouts(self, rows: Sequence[Encoded], plan: ExecutionPlan) -> list[Padded]:
        """Rows of similar length, padded."""
        return [pad([rows[i] for i in group], self.pad_id, plan.device) for group in buckets(rows, plan.tokens)]

    def loss(self, backbone: Paired, layout: Padded, *, fast: bool = True) -> LossSum:
        """Weighted sum of -log p over the targets, in nats."""
        if backbone.plain_logits:
            return reference_from_logits(backbone.own_logits(layout)[layout.sources], layout.labels, layout.weights)
        picked = torch.index_select(backbone.states(layout), 0, layout.sources)
        return linear_cross_entropy(picked, backbone.head_rule(), layout.labels, layout.weights, fast=fast)

    def token_losses(self, backbone: Paired, layout: Padded) -> torch.Tensor:
        """[M] -log p of each target in nats; without gradients."""
        if backbone.plain_logits:
            return losses_from_logits(backbone.own_logits(layout)[layout.sources], layout.labels)
        picked = torch.index_select(backbone.states(layout), 0, layout.sources)
        return token_losses(picked, backbone.head_rule(), layout.labels)

    def write(self, backbone: Paired, rows: Sequence[Encoded], plan: ExecutionPlan) -> list[Written]:
        """What the model writes for the source of each row with its generation settings, in batches of similar length."""
        eos = self.tokenizer.eos_token_id
        return [
            Written(
                str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip(), "stop" if eos in ids else "length", len(ids)
            )
            for ids in self.written_ids(backbone, rows, plan)
        ]  # fmt: skip

    def written_ids(self, backbone: Paired, rows: Sequence[Encoded], plan: ExecutionPlan) -> list[list[int]]:
        """The same as ids, up to the one that ends writing."""
        found: dict[int, list[int]] = {}
        eos = self.tokenizer.eos_token_id
        for group in buckets(rows, plan.tokens):
            batch = pad([rows[i] for i in group], self.pad_id, plan.device)
            with torch.inference_mode():
                ids = backbone.model.generate(input_ids=batch.encoder_ids, attention_mask=batch.encoder_mask).tolist()
            for index, line in zip(group, ids):
                end = line.index(eos, 1) + 1 if eos in line[1:] else None  # padding is behind it
                found[index] = line[1:end]
        return [found[index] for index in range(len(rows))]

    def predict(self, backbone: Paired, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """What the model writes for each row, and how likely it finds the first target."""
        fitted = self.fit(rows)
        of = {row.at: row for row in rows if isinstance(row, Pair)}
        return [
            Prediction(
                row.at, of[row.at].source, of[row.at].targets, one.text,
                likelihood=likelihood(self, backbone, [row], self._target(of[row.at], row), plan), ended=one.ended,
            )
            for row, one in zip(fitted.rows, self.write(backbone, fitted.rows, plan))
        ]  # fmt: skip

    def _target(self, pair: Pair, row: Encoded) -> str:
        """The text that the row's targets are."""
        return str(self.tokenizer.decode(row.ids[1:], skip_special_tokens=True)) if row.cut else pair.targets[0]


@dataclass(frozen=True)
class CausalPairs(Asked):
    """`seq2seq` by a causal chat model: the source stands in an instruction, the target is the answer."""

    spec: Seq2SeqSpec
    chat: BoundChat

    def conversation(self, row: Pair) -> Conversation:
        """The instruction with the source, and the first target as its answer."""
        asked = self.spec.instruction.replace("{source}", row.source)
        return Conversation((Message("user", asked), Message("assistant", row.targets[0])), row.at)

    def conversations(self, rows: Sequence[Row]) -> list[Conversation]:
        """Those of all rows."""
        return [self.conversation(row) for row in rows if isinstance(row, Pair)]

    def predict(self, backbone: Backbone, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """The model's greedy answer to each instruction that its context holds, in batches, and how likely it finds the
        first target."""
        pairs, prompts, limit = [], [], context_limit(backbone.model)
        for row in (row for row in rows if isinstance(row, Pair)):
            prompt = self.template.prompt(with_system(self.conversation(row), self.spec.system).messages[:-1])
            if limit is None or len(prompt) < limit:
                pairs.append(row)
                prompts.append(prompt)
        answers = generate(
            backbone.model, prompts, stop_ids=self.template.stop_ids, max_tokens=self.spec.max_target_tokens
        )
        asked = self.conversations(pairs)
        long = longer_than(limit, self.template, self.chat.spec, asked)
        within = [one for one in asked if one.at not in long]
        likely = likelihoods(backbone.model, self.template, self.chat.spec, within)
        return [
            Prediction(
                row.at, row.source, row.targets, text_of(self.template, answer), likelihood=likely.get(row.at),
                ended=answer.ended,
            )
            for row, answer in zip(pairs, answers)
        ]  # fmt: skip
