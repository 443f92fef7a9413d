"""How likely a model finds given tokens: the loss of every target of every row, without storing logits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.encode.batches import micro_batches
from tutelage.encode.layout import make_layout
from tutelage.encode.types import Encoded, Layout
from tutelage.engine.attention import switch_off
from tutelage.engine.backbone import Backbone, make_backbone
from tutelage.engine.loss import losses_from_logits, token_losses
from tutelage.engine.precision import ExecutionPlan
from tutelage.metrics.types import Likelihood

BUDGET = 1024  # tokens of a micro-batch; on a CPU more is not faster


def target_losses(backbone: Backbone, rows: Sequence[Encoded], budget: int = BUDGET) -> list[NDArray[np.float64]]:
    """For each row, -log p in nats of its targets (tokens with a weight, but for a first one) in their order."""
    found: list[NDArray[np.float64]] = [np.zeros(0)] * len(rows)
    lengths = [len(row.ids) for row in rows]
    places = range(len(rows))
    for group in micro_batches(places, lengths, budget) if backbone.packs else [[place] for place in places]:
        layout = make_layout([rows[i] for i in group], share_prefix=False, device=str(backbone.model.device))
        losses = _losses(backbone, layout).cpu().numpy()
        counts = [int(np.count_nonzero(rows[i].weights[1:])) for i in group]
        for place, part in zip(group, np.split(losses, np.cumsum(counts)[:-1])):
            found[place] = part
    return found


@torch.no_grad()
def likelihood(task: Any, backbone: Any, rows: Sequence[Encoded], text: str, plan: ExecutionPlan) -> Likelihood:
    """How likely the model finds the targets of `rows`, which are those of `text`, by the loss of their bound task."""
    layouts = task.layouts(rows, plan)
    nats = float(sum(task.loss(backbone, layout).value for layout in layouts))
    return Likelihood(nats, sum(int((layout.weights != 0).sum()) for layout in layouts), len(text.encode()))


def backbone_of(model: Any) -> Backbone:
    """The model in the engine's terms, also where it was before."""
    switch_off(model)
    return make_backbone(model)


@torch.no_grad()
def _losses(backbone: Backbone, layout: Layout) -> torch.Tensor:
    if backbone.plain_logits:
        return losses_from_logits(backbone.logits(layout)[layout.sources], layout.labels)
    hidden = torch.index_select(backbone.hidden(layout), 0, layout.sources)
    return token_losses(hidden, backbone.head_rule(), layout.labels)
