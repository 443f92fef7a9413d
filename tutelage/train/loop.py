"""The training loop: a generator of events, and the only one there is.

A step fetches all its rows first, counts their target weight once, adds up the gradients of micro-batches whose losses
are divided by that one number, and updates. Batch i is a pure function of (seed, epoch, i), so a position is an integer.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from tutelage.encode.batches import Batches
from tutelage.encode.types import Encoded, Layout
from tutelage.engine.backbone import Backbone
from tutelage.engine.loss import LossSum
from tutelage.engine.precision import ExecutionPlan
from tutelage.engine.stack import Keep
from tutelage.errors import CheckFailedError, OutOfMemoryError, OutputError, is_out_of_memory
from tutelage.methods.types import Trainable
from tutelage.recipe import OptimSpec, SaveSpec, ValidateSpec
from tutelage.tasks.anchored import Anchored
from tutelage.tasks.batching import packed
from tutelage.train import checkpoint
from tutelage.train.optim import Optimizer, learning_rate
from tutelage.train.types import BudgetHalved, Drawn, Event, Finished, Resumed, Saved, Step, Validated

SAVE_SECONDS = 300.0  # without save.every: what a kill may cost at most
MIN_BUDGET = 16  # tokens; below this memory is not what is missing

T = TypeVar("T")
LossOf = Callable[[Any, Layout], LossSum]
Vary = Callable[[Encoded, int, int, int], Encoded]  # row, seed, epoch, row number
LayoutsOf = Callable[[Sequence[Encoded], ExecutionPlan], Sequence[Any]]


def unchanged(row: Encoded, seed: int, epoch: int, number: int) -> Encoded:
    """Rows are the same in every epoch; masked words are not."""
    return row


@dataclass
class TrainState:
    """A run in memory. What a checkpoint must hold is in `optimizer` and in `progress()`; the rest is given."""

    backbone: Backbone
    trainable: Trainable
    optimizer: Optimizer
    loss_of: LossOf
    train_rows: Sequence[Encoded]
    validation_rows: Sequence[Encoded]
    optim: OptimSpec
    saving: SaveSpec
    validating: ValidateSpec
    plan: ExecutionPlan
    seed: int
    store: Path
    layouts_of: LayoutsOf = packed
    vary: Vary = unchanged
    row_weights: tuple[float, ...] = ()
    anchored: Anchored | None = None  # the loss that holds the model to its base, in place of `loss_of`, which scores
    step: int = 0
    best_step: int | None = None
    best_loss: float = math.inf
    without_gain: int = 0
    target_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    train_loss: float = 0.0  # mean over all target tokens so far
    round: int = 0  # of a method that lets other parameters train in each
    stop_requested: bool = False
    saved_steps: set[int] = field(default_factory=set)

    @property
    def batches(self) -> Batches:
        """The order of rows."""
        return Batches(len(self.train_rows), self.optim.batch_size, self.seed, self.row_weights)

    @property
    def total_steps(self) -> int:
        """Optimiser steps in the whole run."""
        return self.optim.steps or math.ceil(self.optim.epochs * self.batches.per_epoch)

    def progress(self) -> dict[str, Any]:
        """What a checkpoint stores beside tensors."""
        names = ("step", "best_step", "without_gain", "target_tokens", "tokens", "seconds", "train_loss", "round")
        best = None if math.isinf(self.best_loss) else self.best_loss
        plan = {"plan_tokens": self.plan.tokens, "plan_keep": self.plan.keep}
        return {**{name: getattr(self, name) for name in names}, "best_loss": best, **plan}

    def adopt(self, plan: ExecutionPlan) -> None:
        """Go on with `plan`."""
        self.plan = plan
        self.backbone = self.backbone.keeping(Keep[plan.keep.upper()])


def restore(state: TrainState, saved: checkpoint.Checkpoint) -> None:
    """Continue from `saved`: weights, moments, counters, the round, and a budget that had been halved."""
    enter(state, saved.state.get("round", 0))
    state.optimizer.load(saved.tensors)
    for name, value in saved.state.items():
        if name.startswith("plan_"):
            state.adopt(replace(state.plan, **{name.removeprefix("plan_"): value}))
        else:
            setattr(state, name, math.inf if name == "best_loss" and value is None else value)
    # A newer one was damaged: its step is yet to be done and saved, and it must not push a good one out.
    state.saved_steps = {step for step in checkpoint.steps(state.store) if step <= saved.step}


def enter(state: TrainState, number: int) -> None:
    """Let what round `number` draws train, if the method has rounds and this is another one."""
    if state.trainable.rounds is not None and number != state.round:
        state.trainable = state.trainable.rounds.enter(number)
        state.optimizer.redraw(state.trainable.parameters)
        state.round = number


def redraw(state: TrainState) -> Iterator[Event]:
    """Enter the round of the next step; the first step of each round says what was drawn."""
    rounds, per_epoch = state.trainable.rounds, state.batches.per_epoch
    if rounds is None:
        return
    number = rounds.number(state.step, per_epoch)
    enter(state, number)
    draw = state.trainable.draw
    if draw is not None and (state.step == 0 or number != rounds.number(state.step - 1, per_epoch)):
        counts = {category: list(numbers) for category, numbers in draw.categories.items()}
        yield Drawn(state.step, number, state.trainable.count, counts, tuple(state.trainable.parameters))


def training(state: TrainState, resumed: Resumed | None = None) -> Iterator[Event]:
    """Yield one event per step, validation and checkpoint until the run is done, stopped early or interrupted."""
    if resumed is not None:
        yield resumed
    if state.step == 0 and state.validation_rows:
        yield (yield from validate(state))
    reason, last_save = "done", time.monotonic()
    while state.step < state.total_steps:
        if state.validating.patience and state.without_gain >= state.validating.patience:
            reason = "early_stopping"
            break
        if state.stop_requested:
            reason = "interrupted"
            break
        yield from redraw(state)
        yield from one_step(state)
        if validation_due(state):
            event = yield from validate(state)
            yield event
            if event.best:
                yield save(state)
        if save_due(state, last_save):
            yield save(state)
            last_save = time.monotonic()
    if state.step not in state.saved_steps or reason == "interrupted":
        yield save(state)
    yield Finished(state.step, reason)


def validation_due(state: TrainState) -> bool:
    """Every `validate.every` steps, or at the end of each epoch; always behind the last step."""
    every = state.validating.every or state.batches.per_epoch
    return bool(state.validation_rows) and (state.step % every == 0 or state.step == state.total_steps)


def save_due(state: TrainState, last_save: float) -> bool:
    """Every `save.every` steps, or every five minutes."""
    if state.step in state.saved_steps:
        return False
    if state.saving.every:
        return state.step % state.saving.every == 0
    return time.monotonic() - last_save > SAVE_SECONDS


def one_step(state: TrainState) -> Iterator[Event]:
    """One optimiser step."""
    start = time.perf_counter()
    number = state.step // state.batches.per_epoch
    rows = [state.vary(state.train_rows[i], state.seed, number, int(i)) for i in state.batches.of_step(state.step)]
    loss, targets, tokens, moved = yield from fitting(state, rows, lambda packs: accumulate(state, packs))
    if not math.isfinite(loss):
        raise CheckFailedError(
            f"the loss of step {state.step + 1} is {loss}", where=", ".join(str(row.at) for row in rows[:4]),
            why="the weights are unchanged", fix="lower optim.learning_rate, or set precision: fp32",
        )  # fmt: skip
    rate = learning_rate(state.optim, state.step, state.total_steps)
    norm = state.optimizer.gradient_norm()
    state.optimizer.step(rate, norm)
    seconds = time.perf_counter() - start
    state.train_loss += (loss - state.train_loss) * targets / (state.target_tokens + targets)
    state.step, state.target_tokens = state.step + 1, state.target_tokens + targets
    state.tokens, state.seconds = state.tokens + tokens, state.seconds + seconds
    epoch = state.step / state.batches.per_epoch
    yield Step(
        state.step, epoch, loss, rate, norm, targets, tokens, tokens / seconds, seconds, state.total_steps, moved
    )


def fitting(
    state: TrainState, rows: Sequence[Encoded], work: Callable[[Sequence[Any]], T]
) -> Generator[Event, None, T]:
    """What `work` returns for the rows as micro-batches. Out of memory: the budget is halved, and all of it done again.

    Where each row stands alone already, layers keep less for the backward.
    """
    while True:
        packs = state.layouts_of(rows, state.plan)
        try:
            return work(packs)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            why = " ".join(str(error).split())[:200]
        state.optimizer.zero_grad()
        tokens = min(state.plan.tokens, max(len(pack.ids) for pack in packs)) // 2
        if len(packs) == len(rows) and state.plan.keep != Keep.INPUT.name.lower():
            state.adopt(replace(state.plan, keep=Keep(Keep[state.plan.keep.upper()] - 1).name.lower()))
            yield BudgetHalved(state.step + 1, state.plan.tokens, state.plan.keep)
            continue
        if tokens < MIN_BUDGET or len(packs) == len(rows):
            raise OutOfMemoryError(
                f"step {state.step + 1} does not fit into memory, not even one example at a time", why=why,
                fix="lower max_tokens, or choose a lighter method (half, lora, qlora) or a smaller model; "
                "the last checkpoint is intact",
            )  # fmt: skip
        state.plan = replace(state.plan, tokens=tokens)
        yield BudgetHalved(state.step + 1, state.plan.tokens, state.plan.keep)


def accumulate(state: TrainState, packs: Sequence[Any]) -> tuple[float, int, int, float | None]:
    """Gradients of (weighted sum of losses) / (total weight of the step); that loss, its targets, the rows' tokens, and the
    divergence from the base model, of which the loss is told without, where the run is held to it."""
    weight = math.fsum(float(pack.weights.double().sum()) for pack in packs)
    value, moved = 0.0, 0.0
    for index, pack in enumerate(packs):
        torch.manual_seed(draw_seed(state.seed, state.step, index))
        result = (state.anchored or state.loss_of)(state.backbone, pack)
        (result.total / weight).backward()  # type: ignore[no-untyped-call]
        value, moved = value + result.value, moved + result.divergence
    targets, tokens = sum(scored_targets(pack) for pack in packs), sum(pack.tokens for pack in packs)
    return value / weight, targets, tokens, moved / weight if state.anchored else None


def scored_targets(pack: Any) -> int:
    """How many of a micro-batch's targets have a weight."""
    return int((pack.weights != 0).sum())


def draw_seed(seed: int, step: int, micro_batch: int) -> int:
    """The seed of all random draws (dropout) of one micro-batch."""
    return (seed * 1_000_003 + step) * 4099 + micro_batch & 0x7FFF_FFFF_FFFF_FFFF


def validate(state: TrainState) -> Generator[Event, None, Validated]:
    """Score the held-out rows and note whether they are the best so far; the untouched model (step 0) is no candidate."""
    start = time.perf_counter()
    rows = sample(state.validation_rows, state.validating.rows)
    total, weight, correct, targets = yield from fitting(state, rows, lambda packs: score(state, packs))
    loss = total / weight
    best = state.step > 0 and loss < state.best_loss
    if best:
        state.best_loss, state.best_step, state.without_gain = loss, state.step, 0
    elif state.step > 0:
        state.without_gain += 1
    seconds = time.perf_counter() - start
    return Validated(state.step, loss, math.exp(min(loss, 700)), correct / targets, targets, len(rows), best, seconds)


def score(state: TrainState, packs: Sequence[Any]) -> tuple[float, float, int, int]:
    """Sums over the targets of `packs`: weighted loss, weight, right first choices, targets."""
    with torch.no_grad():
        results = [state.loss_of(state.backbone, pack) for pack in packs]
    return (
        math.fsum(result.value for result in results), math.fsum(float(pack.weights.double().sum()) for pack in packs),
        sum(result.correct for result in results), sum(scored_targets(pack) for pack in packs),
    )  # fmt: skip


def sample(rows: Sequence[Encoded], most: int) -> list[Encoded]:
    """At most `most` rows, evenly spread, the same ones each time."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i * len(rows) // most] for i in range(most)]


def save(state: TrainState) -> Saved:
    """Write a checkpoint; a full disk or missing memory is reported in the event and the run goes on."""
    start = time.perf_counter()
    state.saved_steps.add(state.step)
    newest = sorted(state.saved_steps)[-state.saving.keep :]
    keep = {*newest, *([state.best_step] if state.best_step else [])}
    try:
        path = checkpoint.save(state.store, state.step, state.progress(), state.optimizer.state(), keep)
    except (OutputError, MemoryError, RuntimeError) as error:
        if not isinstance(error, OutputError) and not is_out_of_memory(error):
            raise
        state.saved_steps.discard(state.step)
        return Saved(state.step, "", time.perf_counter() - start, str(error) or "memory ran out")
    return Saved(state.step, str(path), time.perf_counter() - start)
