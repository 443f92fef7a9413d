"""Half fine-tuning (HFT, Hui et al. 2024, arXiv 2404.18466 §3): in each round a random half of the parameters trains.

Whole matrices are drawn, by category: of each layer's attention matrices half, of its feed-forward matrices half (of three: two
in a random half of the layers and one in the others), of its norms half. Embeddings and the output head always train.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tutelage.errors import ModelError
from tutelage.methods.fixed import freeze_tables
from tutelage.methods.parts import Part, parts_of
from tutelage.methods.types import METHODS, Draw, Trainable
from tutelage.models.load import save_model
from tutelage.recipe import HalfSpec


@dataclass(frozen=True)
class Halves:
    """What may train in a model, and which half of it does in round r: a pure function of (seed, r)."""

    parameters: Mapping[str, nn.Parameter]  # all but tables that are computed, tied ones once
    total: int  # values of the whole model
    parts: tuple[Part, ...]
    seed: int
    round: str | int

    def number(self, step: int, per_epoch: int) -> int:
        """The round of optimiser step `step`, counted from 0."""
        if self.round == "run":
            return 0
        return step // (per_epoch if self.round == "epoch" else int(self.round))

    def draw(self, number: int) -> Draw:
        """The half of round `number`."""
        chosen = drawn_parts(self.parts, self.seed, number)
        resting = {name for part, drawn in zip(self.parts, chosen) if not drawn for name in part.names}
        categories: dict[str, list[int]] = {}
        for part, drawn in zip(self.parts, chosen):
            values = sum(self.parameters[name].numel() for name in part.names)
            counts = categories.setdefault(part.category, [0, 0, 0, 0])
            for place, value in enumerate((drawn, 1, drawn * values, values)):
                counts[place] += value
        return Draw(number, {n: p for n, p in self.parameters.items() if n not in resting}, categories)

    def enter(self, number: int) -> Trainable:
        """Let the half of round `number` train, and no other parameter."""
        drawn = self.draw(number)
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in drawn.parameters)
        later = {n: p for n, p in self.parameters.items() if n not in drawn.parameters} if self.round != "run" else {}
        return Trainable(drawn.parameters, self.total, later, self, drawn)


class Half:
    """Trains a half of the model, drawn anew in every round, and stores a `from_pretrained` folder."""

    def prepare(self, model: Any, spec: HalfSpec, *, seed: int) -> Trainable:
        """The half of the first round."""
        parts = tuple(parts_of(model))
        if not parts:
            raise ModelError(
                "half fine-tuning finds no layers in this model", where="method.kind",
                why=f"a {model.config.model_type} model has no list of layers", fix="method: full",
            )  # fmt: skip
        tables = freeze_tables(model)
        parameters = {name: p for name, p in model.named_parameters() if name not in tables}
        total = sum(parameter.numel() for parameter in model.parameters())
        return Halves(parameters, total, parts, seed, spec.round).enter(0)

    def save(self, model: Any, spec: HalfSpec, folder: Path, *, base: str) -> None:
        """The whole model, as full fine-tuning does."""
        save_model(model, folder)


METHODS.add("half")(Half())


def drawn_parts(parts: tuple[Part, ...], seed: int, number: int) -> list[bool]:
    """Which parts train in round `number`: of a group of 2k parts k; of groups of 2k + 1 parts, k + 1 in a random half of
    them and k in the others (where the number of such groups is odd, chance decides for the one too many)."""
    generator = np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, 2]))
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, part in enumerate(parts):
        groups[part.category][part.group].append(index)
    chosen = [False] * len(parts)
    for members in groups.values():
        odd = [group for group, inside in members.items() if len(inside) % 2]
        more = (len(odd) + int(generator.integers(2))) // 2
        larger = {odd[i] for i in generator.permutation(len(odd))[:more]}
        for group, inside in members.items():
            for i in generator.permutation(len(inside))[: len(inside) // 2 + (group in larger)]:
                chosen[inside[i]] = True
    return chosen
