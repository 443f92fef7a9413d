"""Full fine-tuning: every parameter trains, or those that the recipe's patterns leave."""

from pathlib import Path
from typing import Any

from tutelage.errors import RecipeError
from tutelage.methods.fixed import freeze_tables
from tutelage.methods.fresh import fresh_modules, is_inside
from tutelage.methods.patterns import matching
from tutelage.methods.types import METHODS, Trainable, trainable_of
from tutelage.models.load import save_model
from tutelage.recipe import FullSpec


class Full:
    """Trains all parameters, or some, and stores a `from_pretrained` folder."""

    def prepare(self, model: Any, spec: FullSpec, *, seed: int) -> Trainable:
        """Every parameter of `model` that `train` names (none: all), without those of `freeze` and tables that are computed; a
        task's own head trains in any case. Tied embeddings count once, under each of their names."""
        tables = freeze_tables(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in tables)
        if spec.train is None and not spec.freeze:
            return trainable_of(model)
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        known = [name for same in names.values() for name in same]
        wanted = set(known) if spec.train is None else matching(spec.train, known, "method.train")
        frozen = matching(spec.freeze, known, "method.freeze")
        heads = fresh_modules(model)
        for name, parameter in model.named_parameters():
            same = names[id(parameter)]
            chosen = any(each in wanted for each in same) and not any(each in frozen for each in same)
            parameter.requires_grad_(name not in tables and (chosen or is_inside(name, heads)))
        trainable = trainable_of(model)
        if not trainable.parameters:
            raise RecipeError(
                "nothing is left to train", where="method.freeze", why="its patterns match all that could train",
                fix="freeze less, e.g. method: {kind: full, freeze: [embed_tokens]}",
            )  # fmt: skip
        return trainable

    def save(self, model: Any, spec: FullSpec, folder: Path, *, base: str) -> None:
        """The whole model."""
        save_model(model, folder)


METHODS.add("full")(Full())
