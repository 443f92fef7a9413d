"""What a task is: how rows become tokens, tokens a loss, and a model's outputs predictions.

A `Task` is stateless and registered by name. `open` binds it to a recipe, a tokenizer and the label names of the data;
everything else asks the `Bound` task, and nobody asks which task it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tutelage.data.types import Row
from tutelage.encode.contract import Contract, Fitted
from tutelage.encode.template import Template
from tutelage.encode.types import Encoded
from tutelage.engine.backbone import Backbone
from tutelage.engine.loss import LossSum
from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import RecipeError
from tutelage.metrics.types import Prediction
from tutelage.models.types import Family, HeadWanted
from tutelage.registry import Registry
from tutelage.taskspec import TaskSpec


@dataclass(frozen=True)
class Opening:
    """What a task is bound to. `rows` are the training rows, `others` those of validation and test."""

    tokenizer: Any
    config: dict[str, Any]  # the model's config.json
    family: Family
    max_tokens: int
    over_length: str
    rows: tuple[Row, ...] = ()
    others: tuple[Row, ...] = ()
    eos_ids: tuple[int, ...] = ()


class Bound(Protocol):
    """A task bound to its recipe, tokenizer and label names."""

    @property
    def spec(self) -> TaskSpec:
        """The recipe's part with everything filled in that came from the data, e.g. label names."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, as it is saved with the model."""
        ...

    @property
    def template(self) -> Template | None:
        """The chat template, where the task has one."""
        ...

    @property
    def head(self) -> HeadWanted:
        """Which head the model needs."""
        ...

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """The rows as tokens that respect the length limit."""
        ...

    def contract(self, rows: Sequence[Row], fitted: Fitted) -> Contract:
        """Counts and checks of what will be trained."""
        ...

    def examples(self, fitted: Fitted, first: int) -> list[dict[str, Any]]:
        """Coloured examples for the preview and the report."""
        ...

    def backbone(self, model: Any) -> Backbone:
        """The model in the engine's terms."""
        ...

    def layouts(self, rows: Sequence[Encoded], plan: ExecutionPlan) -> Sequence[Any]:
        """The rows as micro-batches of at most the plan's budget."""
        ...

    def loss(self, backbone: Any, layout: Any, *, fast: bool = True) -> LossSum:
        """The weighted sum of the layout's losses."""
        ...

    def predict(self, backbone: Any, rows: Sequence[Row], plan: ExecutionPlan) -> list[Prediction]:
        """What the model makes of each row that fits; rows keep their order."""
        ...


class Task(Protocol):
    """One kind of training."""

    def accepts(self, spec: Any) -> tuple[type, ...]:
        """The types of rows that it reads."""
        ...

    def open(self, spec: Any, opening: Opening) -> Bound:
        """The task bound to `opening`; DataError and RecipeError say what does not fit."""
        ...


TASKS: Registry[Task] = Registry("task")


def require_family(task: str, opening: Opening, *families: Family) -> None:
    """Refuse a model whose architecture the task cannot use."""
    if opening.family in families:
        return
    kind = opening.config.get("model_type")
    raise RecipeError(
        f"the task {task} does not fit this model", where="task",
        why=f"a {kind} model is an {opening.family}, and the task needs an {' or '.join(families)}".replace("a e", "an e"),
        fix={"encoder": "model: minilm-l6", "decoder": "model: smollm2-135m"}.get(families[0], "model: t5-small"),
    )  # fmt: skip
