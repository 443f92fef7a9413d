"""What tasks share whose rows are plain texts with `Targets`: a head scores some hidden states of packed rows."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from tutelage.data.types import Row
from tutelage.encode.contract import Contract, Fitted
from tutelage.encode.tokens import Tokens
from tutelage.encode.types import Encoded, Layout
from tutelage.engine.headed import Headed, make_headed
from tutelage.engine.precision import ExecutionPlan
from tutelage.tasks.batching import packed
from tutelage.tasks.shown import examine_targets, labelled_examples


class Scored(ABC):
    """A bound task over the tokenizer's own frame; what is learnt of a text is written by `shown`."""

    tokens: Tokens
    template: None = None

    @abstractmethod
    def shown(self, row: Encoded) -> str:
        """What the targets of `row` say, for people."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.tokens.tokenizer

    def contract(self, rows: Sequence[Row], fitted: Fitted) -> Contract:
        """Counts and checks."""
        return examine_targets(self.tokens, fitted)

    def examples(self, fitted: Fitted, first: int) -> list[dict[str, Any]]:
        """Texts with what is learnt of them behind them."""
        return labelled_examples(self.tokenizer, fitted, first, self.shown)

    def backbone(self, model: Any) -> Headed:
        """The model with its head."""
        return make_headed(model)

    def layouts(self, rows: Sequence[Encoded], plan: ExecutionPlan) -> list[Layout]:
        """Packed rows."""
        return packed(rows, plan)
