"""A run without weights: the run's own state on tensors that have no values, and one step of it walked through.

Nothing here knows a formula. The model is built from config.json, the method prepares it, the loop's `accumulate` runs on
real rows, and `engine/tally.py` counts what that would hold and multiply. So planning, estimating and training cannot disagree
about what a step is.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tutelage.encode.rows import Rows
from tutelage.encode.types import Encoded
from tutelage.engine.precision import ExecutionPlan
from tutelage.engine.tally import Tally
from tutelage.models.load import hollow_model
from tutelage.recipe import Recipe
from tutelage.train.loop import TrainState, accumulate
from tutelage.train.material import Material
from tutelage.train.setup import build_state

META = "meta"
MOST_STEPS = 2000  # of which the fullest one is looked for


@dataclass(frozen=True)
class Walk:
    """Bytes by part where a step holds most, and its products' operations. `weights` are those of the model as it computes."""

    weights: int
    optimizer: int  # moments and fp32 masters
    gradients: int
    activations: int
    loss: int  # logits and their gradients, and the head's
    working: int  # what the backward pass holds for a moment
    allocator: int  # free again, and not given back to the system
    operations: int
    tokens: int  # of the fullest micro-batch
    products: int  # of different shapes

    @property
    def bytes(self) -> int:
        """All of it together."""
        parts = (self.weights, self.optimizer, self.gradients, self.activations, self.loss, self.working)
        return sum(parts) + self.allocator

    @property
    def beyond_weights(self) -> int:
        """What training takes beside the weights."""
        return self.bytes - self.weights


@dataclass(frozen=True)
class Sketch:
    """A run on meta tensors, what has been counted of it, and the device that it stands for."""

    state: TrainState
    tally: Tally
    device: str
    walks: dict[tuple[object, ...], Walk] = field(default_factory=dict)

    @property
    def plan(self) -> ExecutionPlan:
        """The plan that it stands for."""
        return replace(self.state.plan, device=self.device)

    @property
    def parameter_bytes(self) -> int:
        """Of the whole model as it computes; weights in NF4 are buffers."""
        model = self.state.backbone.model
        return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))

    def adopt(self, plan: ExecutionPlan) -> None:
        """Go on with `plan`."""
        self.state.adopt(replace(plan, device=META))

    def walk(self, rows: Sequence[Encoded]) -> Walk:
        """A step on `rows`: its fullest micro-batch, as the last of them. Operations are scaled to all."""
        plan = self.state.plan
        key = (plan.tokens, plan.keep, *((row.at, len(row.ids)) for row in rows))
        if key not in self.walks:
            with self.tally:
                packs = sorted(self.state.layouts_of(rows, plan), key=lambda pack: -len(pack.ids))
                self.walks[key] = self._walked(packs)
        return self.walks[key]

    def _walked(self, packs: Sequence[Any]) -> Walk:
        state, tally = self.state, self.tally
        optimizer, vocabulary = state.optimizer, state.backbone.model.config.get_text_config().vocab_size
        with tally.labelled("optimizer"):
            optimizer.reserve()
        with tally.labelled("backward"):
            optimizer.reserve_gradients(before=len(packs) > 1)
        tally.operations = 0
        tally.products.clear()
        with tally.labelled("activations"), tally.wide("loss", vocabulary):
            accumulate(state, packs[:1])
        after = tally.live["backward"]
        optimizer.zero_grad()
        peak = tally.peak
        masters = optimizer.bytes() - peak["optimizer"]  # made when the state was built
        gradients = min(after, peak["backward"])
        share = len(packs[0].ids) / sum(len(pack.ids) for pack in packs)
        walk = Walk(
            weights=peak["weights"] - masters, optimizer=peak["optimizer"] + masters, gradients=gradients,
            activations=peak["activations"], loss=peak["loss"], working=peak["backward"] - gradients,
            allocator=tally.allocator, operations=round(tally.operations / share),
            tokens=len(packs[0].ids), products=len(tally.products),
        )  # fmt: skip
        tally.settle()
        return walk


def sketched(recipe: Recipe, material: Material, plan: ExecutionPlan) -> Sketch:
    """The run of `recipe` at step 0 as a sketch; takes a second or two, and no memory to speak of."""
    tally = Tally()
    with tally:
        hollow = _without_values(material.loaded) if material.loaded is not None else (
            hollow_model(material.fetched.path, material.task.head, dtype=plan.dtype)
        )  # fmt: skip
        state = build_state(recipe, replace(material, loaded=hollow), replace(plan, device=META), Path("nowhere"))
    tally.settle()  # a model that was quantised was whole before
    return Sketch(state, tally, plan.device)


def _without_values(model: Any) -> Any:
    """A copy of a loaded model whose tensors are on `meta`; nothing of its weights is copied."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {}
    for tensor in tensors:
        hollow = torch.empty_like(tensor, device=META)
        memo[id(tensor)] = torch.nn.Parameter(hollow) if isinstance(tensor, torch.nn.Parameter) else hollow
    return copy.deepcopy(model, memo)


def longest_rows(state: TrainState) -> list[Encoded]:
    """As many of the longest rows as a step has, the longest one first."""
    order = np.argsort(-lengths_of(state.train_rows), kind="stable")
    return [state.train_rows[int(i)] for i in order[: state.optim.batch_size]]


def fullest_rows(state: TrainState) -> list[Encoded]:
    """The rows of the step with the fullest micro-batch: batches are known before the run."""
    return [state.train_rows[int(i)] for i in state.batches.of_step(fullest_step(state))]


def fullest_step(state: TrainState) -> int:
    """The number of that step, counted from 0."""
    lengths, budget = lengths_of(state.train_rows), state.plan.tokens

    def fullest(step: int) -> tuple[float, float]:
        taken = lengths[state.batches.of_step(step)]
        total, longest = float(taken.sum()), float(taken.max())
        if not state.plan.packed:
            return longest, total
        return max(longest, total / -(-total // budget)), total

    return max(range(min(state.total_steps, MOST_STEPS)), key=fullest)


def lengths_of(rows: Sequence[Encoded]) -> np.ndarray:
    """[rows] tokens of each row, an encoder-decoder's source included."""
    read = np.array([0 if row.source is None else len(row.source) for row in rows[:1]])
    if not read.any():
        return np.asarray(Rows.of(rows).lengths)
    return np.array([len(row.ids) + (0 if row.source is None else len(row.source)) for row in rows])
