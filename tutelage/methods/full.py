"""Full fine-tuning: every parameter trains."""

from pathlib import Path
from typing import Any

from tutelage.methods.types import METHODS, Trainable, trainable_of
from tutelage.recipe import FullSpec


class Full:
    """Trains all parameters and stores a `from_pretrained` folder."""

    def prepare(self, model: Any, spec: FullSpec, *, seed: int) -> Trainable:
        """Every parameter of `model`; tied embeddings count once."""
        model.requires_grad_(True)
        return trainable_of(model)

    def save(self, model: Any, spec: FullSpec, folder: Path, *, base: str) -> None:
        """Through transformers' own writer, which reverses what its loader renamed."""
        model.save_pretrained(folder, safe_serialization=True)


METHODS.add("full")(Full())
