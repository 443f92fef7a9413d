"""The loss of tokens with a term that holds the model to its base: + strength · KL(base || tuned) at every target.

The base is a frozen copy of the model as the run began, which shares with it every module that does not train: of LoRA it is the
same model with adapters that add nothing.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tutelage.encode.types import Layout
from tutelage.engine.backbone import Backbone
from tutelage.engine.loss import Anchor, LossSum, linear_cross_entropy, reference_from_logits


@dataclass(frozen=True)
class Anchored:
    """The next-token loss with the term. `bytes` are what the copy takes beside the model."""

    base: Backbone
    strength: float
    bytes: int

    def __call__(self, backbone: Backbone, layout: Layout, *, fast: bool = True) -> LossSum:
        """Weighted sum of -log p + strength · KL over the layout's targets, in nats."""
        if backbone.plain_logits:
            with torch.no_grad():
                theirs = self.base.logits(layout, fast=fast)[layout.sources]
            ours = backbone.logits(layout, fast=fast)[layout.sources]
            return reference_from_logits(ours, layout.labels, layout.weights, (theirs, self.strength))
        with torch.no_grad():
            anchor = Anchor(self.base.at_sources(layout, fast=fast), self.base.head_rule(), self.strength)
        picked = backbone.at_sources(layout, fast=fast)
        return linear_cross_entropy(
            picked, backbone.head_rule(), layout.labels, layout.weights, fast=fast, anchor=anchor
        )


def anchored(backbone: Backbone, trained: Iterable[nn.Parameter], strength: float) -> Anchored:
    """The loss for `backbone`, whose weights are the base's now; `trained` are all that will ever train."""
    own = {id(parameter) for parameter in trained}
    model = frozen_copy(backbone.model, own)
    kept = {id(parameter): parameter for parameter in model.parameters()}
    shared = {id(parameter) for parameter in backbone.model.parameters()}
    size = sum(p.numel() * p.element_size() for key, p in kept.items() if key not in shared)
    stack = None if backbone.stack is None else backbone.stack.on(model.base_model)
    base = replace(backbone, model=model, body=model.base_model, head=model.get_output_embeddings(), stack=stack)
    return Anchored(base, strength, size)


def frozen_copy(model: Any, trained: set[int]) -> Any:
    """`model` with copies of what trains, dropout off; every module and tensor without any of it is the same one."""
    same: list[Any] = [m for m in model.modules() if not any(id(p) in trained for p in m.parameters())]
    same += [p for p in model.parameters() if id(p) not in trained]
    shared = {id(each): each for each in same}
    copied = copy.deepcopy(model, dict(shared))
    for parameter in copied.parameters():
        if id(parameter) not in shared:
            parameter.requires_grad_(False)
    for module in copied.modules():
        if id(module) not in shared:
            module.training = False
    return copied
