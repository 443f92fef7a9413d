"""`tutelage quickstart`: the whole way on the default model and shipped data, in minutes, on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tutelage
from tutelage.errors import MissingInputError
from tutelage.recipe import read_recipe
from tutelage.train.types import Event
from tutelage.verbs.train import train

EXAMPLE = "science_teacher"


def quickstart(
    *,
    out: str = "runs/quickstart",
    watch: Callable[[Event], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """`train`'s result for the shipped science-teacher data, with held-out answers before and after."""
    folder = example_folder()
    overrides = (f"data.train={folder / 'train.jsonl'}", f"data.validation={folder / 'heldout.jsonl'}", f"out={out}")
    recipe = read_recipe(folder / "recipe.yaml", overrides)
    return train(recipe, watch=watch or (lambda event: None), say=say or (lambda line: None))


def example_folder() -> Path:
    """The shipped example: inside an installed package, beside the package in a checkout."""
    package = Path(tutelage.__path__[0])
    for folder in (package / "examples" / EXAMPLE, package.parent / "examples" / EXAMPLE):
        if (folder / "recipe.yaml").is_file():
            return folder
    raise MissingInputError("the shipped example data is missing", where=str(package), fix="install tutelage again")
