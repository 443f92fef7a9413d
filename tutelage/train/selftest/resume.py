"""A short run through the real checkpoint store, once whole and once interrupted and continued."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tutelage.train import checkpoint
from tutelage.train.loop import TrainState, restore, training
from tutelage.train.types import Resumed, Saved, Step

Numbers = dict[str, Tensor]


def interrupted_and_whole(make: Callable[[Path], TrainState], store: Path) -> tuple[Numbers, Numbers, bool]:
    """Everything that the second half of the continued run and of the whole one left; and whether weights moved in it."""
    state = make(store / "whole")
    half: Numbers = {}
    losses: Numbers = {}
    for event in training(state):
        if isinstance(event, Step):
            losses[f"loss of step {event.step}"] = torch.tensor(event.loss, dtype=torch.float64)
        elif isinstance(event, Saved) and not half:
            half = weights_of(state)
    whole = {**state_of(state), **losses}
    moved = any(not torch.equal(half[name], tensor) for name, tensor in weights_of(state).items())
    del state
    first = make(store / "parts")
    for event in training(first):
        if isinstance(event, Step):
            losses[f"loss of step {event.step}"] = torch.tensor(event.loss, dtype=torch.float64)
        if isinstance(event, Saved):
            break  # as a kill does: what is not in the store is lost
    del first
    second = make(store / "parts")
    saved, _ = checkpoint.newest(second.store)
    if saved is None:
        raise RuntimeError("the checkpoint that was just saved cannot be read")
    restore(second, saved)
    for event in training(second, Resumed(saved.step, str(saved.path))):
        if isinstance(event, Step):
            losses[f"loss of step {event.step}"] = torch.tensor(event.loss, dtype=torch.float64)
    return {**state_of(second), **losses}, whole, moved


def state_of(state: TrainState) -> Numbers:
    """Weights and moments, copied."""
    return {name: tensor.detach().clone() for name, tensor in state.optimizer.state().items()}


def weights_of(state: TrainState) -> Numbers:
    """Weights alone, copied."""
    return {name: tensor.detach().clone() for name, tensor in state.optimizer.masters.items()}
