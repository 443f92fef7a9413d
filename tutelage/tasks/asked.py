"""What tasks share that put their rows as questions to a causal chat model: everything but the question and the prediction."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from tutelage.data.types import Conversation, Row
from tutelage.encode.contract import Contract, Fitted
from tutelage.encode.template import Template
from tutelage.encode.types import Encoded, Layout
from tutelage.engine.backbone import Backbone
from tutelage.engine.loss import LossSum
from tutelage.engine.precision import ExecutionPlan
from tutelage.models.types import HeadWanted
from tutelage.tasks.chat import BoundChat


class Asked(ABC):
    """A bound task that trains as `chat` on the conversations it makes of its rows."""

    chat: BoundChat

    @abstractmethod
    def conversations(self, rows: Sequence[Row]) -> list[Conversation]:
        """Each row as an instruction with its answer."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.chat.tokenizer

    @property
    def template(self) -> Template:
        """The chat template."""
        return self.chat.template

    @property
    def head(self) -> HeadWanted:
        """The language-model head."""
        return self.chat.head

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """Instructions and answers as tokens."""
        return self.chat.fit(self.conversations(rows))

    def contract(self, rows: Sequence[Row], fitted: Fitted) -> Contract:
        """The token contract of chat."""
        return self.chat.contract(self.conversations(rows), fitted)

    def examples(self, fitted: Fitted, first: int) -> list[dict[str, Any]]:
        """Coloured examples."""
        return self.chat.examples(fitted, first)

    def backbone(self, model: Any) -> Backbone:
        """The causal backbone."""
        return self.chat.backbone(model)

    def layouts(self, rows: Sequence[Encoded], plan: ExecutionPlan) -> list[Layout]:
        """Packed rows."""
        return self.chat.layouts(rows, plan)

    def loss(self, backbone: Backbone, layout: Layout, *, fast: bool = True) -> LossSum:
        """Next-token loss on the answer."""
        return self.chat.loss(backbone, layout, fast=fast)
