"""Task `chat`: next-token loss on the assistant's turns of a causal model."""

from collections.abc import Sequence

from tutelage.data.types import Conversation, Message
from tutelage.encode.template import Template
from tutelage.encode.types import Encoded, Layout
from tutelage.engine.backbone import Backbone
from tutelage.engine.loss import LossSum, linear_cross_entropy, reference_from_logits
from tutelage.recipe import ChatSpec


def encode(template: Template, spec: ChatSpec, rows: Sequence[Conversation]) -> list[Encoded]:
    """The rows as tokens and loss weights, with the recipe's system prompt where a row has none."""
    return template.encode([with_system(row, spec.system) for row in rows], spec.train_on)


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
