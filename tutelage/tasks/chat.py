"""Task `chat`: next-token loss on the assistant's turns of a causal model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.types import Conversation, Message, Row
from tutelage.encode.contract import Contract, Fitted, examine, fit
from tutelage.encode.encoder import Encoder
from tutelage.encode.preview import examples
from tutelage.encode.rows import Columns, Rows
from tutelage.encode.template import Template
from tutelage.encode.types import Encoded, Layout
from tutelage.engine.backbone import Backbone, make_backbone
from tutelage.engine.loss import LossSum, linear_cross_entropy, reference_from_logits
from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import MissingInputError
from tutelage.generate.answer import ANSWER_TOKENS, answer_messages
from tutelage.metrics.types import Prediction
from tutelage.models.types import HeadWanted
from tutelage.tasks.batching import packed
from tutelage.tasks.types import TASKS, Opening, require_family
from tutelage.taskspec import ChatSpec


def encode(template: Template, spec: ChatSpec, rows: Iterable[Conversation]) -> Iterator[Columns]:
    """The rows as tokens and loss weights, in chunks, with the recipe's system prompt where a row has none."""
    return Encoder(template, spec.train_on).columns(with_system(row, spec.system) for row in rows)


def encoding(spec: ChatSpec) -> dict[str, object]:
    """The keys of the recipe that decide the tokens."""
    return {"kind": "chat", "system": spec.system, "train_on": spec.train_on}


def with_system(row: Conversation, system: str | None) -> Conversation:
    """The row with `system` as its first message, if it has no system message."""
    if system is None or row.messages[0].role == "system":
        return row
    return Conversation((Message("system", system), *row.messages), row.at, row.tools)


def loss(backbone: Backbone, layout: Layout, *, fast: bool = True) -> LossSum:
    """Weighted sum of -log p over the layout's targets, in nats."""
    if backbone.plain_logits:
        logits = backbone.logits(layout, fast=fast)[layout.sources]
        return reference_from_logits(logits, layout.labels, layout.weights)
    picked = backbone.at_sources(layout, fast=fast)
    return linear_cross_entropy(picked, backbone.head_rule(), layout.labels, layout.weights, fast=fast)


def conversations(rows: Sequence[Row]) -> list[Conversation]:
    """The rows that are conversations, which all of this task's are."""
    return [row for row in rows if isinstance(row, Conversation)]


@dataclass(frozen=True)
class BoundChat:
    """`chat` with a tokenizer and its template; other tasks of causal models turn their rows into conversations first."""

    spec: ChatSpec
    template: Template
    max_tokens: int
    over_length: str

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that the template belongs to."""
        return self.template.tokenizer

    @property
    def head(self) -> HeadWanted:
        """The language-model head."""
        return HeadWanted("causal")

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """Conversations as tokens with a loss weight each."""
        parts = list(encode(self.template, self.spec, conversations(rows)))
        return fit([row for part in parts for row in Rows.all(part)], self.max_tokens, self.over_length)

    def contract(self, rows: Sequence[Row], fitted: Fitted) -> Contract:
        """The token contract."""
        return examine(self.template, [with_system(row, self.spec.system) for row in conversations(rows)], fitted)

    def examples(self, fitted: Fitted, first: int) -> list[dict[str, Any]]:
        """Coloured examples."""
        return examples(self.template, fitted.rows, first)

    def backbone(self, model: Any) -> Backbone:
        """The causal backbone."""
        return make_backbone(model)

    def layouts(self, rows: Sequence[Encoded], plan: ExecutionPlan) -> list[Layout]:
        """Packed rows, a prefix that they share computed once."""
        return packed(rows, plan)

    def loss(self, backbone: Backbone, layout: Layout, *, fast: bool = True) -> LossSum:
        """Next-token loss."""
        return loss(backbone, layout, fast=fast)

    def predict(self, backbone: Backbone, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """The model's greedy answer in place of each row's last assistant turn."""
        predictions = []
        for row in (with_system(row, self.spec.system) for row in conversations(rows)):
            last = max(i for i, message in enumerate(row.messages) if message.role == "assistant")
            text, ended = answer_messages(backbone.model, self.template, row.messages[:last], max_tokens=ANSWER_TOKENS)
            asked = next((m.content for m in reversed(row.messages[:last]) if m.role == "user"), "")
            predictions.append(Prediction(row.at, asked, row.messages[last].content, text, ended=ended))
        return predictions


class Chat:
    """Registers the task."""

    def accepts(self, spec: ChatSpec) -> tuple[type, ...]:
        """Conversations."""
        return (Conversation,)

    def open(self, spec: ChatSpec, opening: Opening) -> BoundChat:
        """The task with the model's template, or the recipe's."""
        require_family("chat", opening, "decoder")
        return open_chat(spec, opening)


TASKS.add("chat")(Chat())


def open_chat(spec: ChatSpec, opening: Opening) -> BoundChat:
    """`chat` for `opening`."""
    text = read_template(spec.chat_template)
    template = Template.of(opening.tokenizer, eos_ids=opening.eos_ids, text=text)
    return BoundChat(spec, template, opening.max_tokens, opening.over_length)


def read_template(file: str | None) -> str | None:
    """The text of a recipe's Jinja file, if it names one."""
    if file is None:
        return None
    if not Path(file).is_file():
        raise MissingInputError("there is no such chat template", where="task.chat_template", why=file)
    return Path(file).read_text(encoding="utf-8")
