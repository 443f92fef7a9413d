"""Task `chat`: next-token loss on the assistant's turns of a causal model."""

from collections.abc import Iterable, Iterator

from tutelage.data.types import Conversation, Message
from tutelage.encode.encoder import Encoder
from tutelage.encode.rows import Columns
from tutelage.encode.template import Template
from tutelage.encode.types import Layout
from tutelage.engine.backbone import Backbone
from tutelage.engine.loss import LossSum, linear_cross_entropy, reference_from_logits
from tutelage.recipe import ChatSpec


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
