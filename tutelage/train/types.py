"""The events of a training run. A run is a stream of these; whoever wants to watch iterates them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step. `loss` is the weighted mean over the step's target tokens, in nats."""

    step: int  # 1-based
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    target_tokens: int
    tokens: int
    tokens_per_second: float
    seconds: float
    total_steps: int = 0  # of the whole run, where it is known
    divergence: float | None = (
        None  # KL(base || tuned) in nats per target token; none where the run is not held to its base
    )
    event: str = "step"


@dataclass(frozen=True, slots=True)
class Validated:
    """Held-out scores after `step` steps (0: the untouched model), weighted by target token, on `rows` rows."""

    step: int
    loss: float
    perplexity: float
    accuracy: float  # share of target tokens that are the model's first choice
    target_tokens: int
    rows: int
    best: bool
    seconds: float
    event: str = "validated"


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is complete on disk, or `error` says why there is none."""

    step: int
    path: str
    seconds: float
    error: str = ""
    event: str = "saved"


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run goes on after `step` finished steps; `skipped` lists checkpoints that were damaged, with the reason."""

    step: int
    path: str
    skipped: tuple[str, ...] = ()
    event: str = "resumed"


@dataclass(frozen=True, slots=True)
class BudgetHalved:
    """Memory ran out in this step: it is done again with micro-batches of at most `tokens` tokens.

    `keep` is what layers keep for the backward pass from now on: it is less where rows stand alone already.
    """

    step: int
    tokens: int
    keep: str = "all"
    event: str = "budget_halved"


@dataclass(frozen=True, slots=True)
class Drawn:
    """From now on (after `step` steps) the half of round `round` trains: `parameters` values, and the tensors `names`.

    `categories` says of each category how many parts were drawn, of how many, and the same in values.
    """

    step: int
    round: int
    parameters: int
    categories: dict[str, list[int]]
    names: tuple[str, ...]
    event: str = "drawn"


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a run. `reason` is "done", "early_stopping" or "interrupted"."""

    step: int
    reason: str
    event: str = "finished"


Event = Step | Validated | Saved | Resumed | BudgetHalved | Drawn | Finished
