"""From the name that a user types to a ModelRef. Torch-free, and asks no network."""

import re
from pathlib import Path

from tutelage.errors import MissingInputError, ModelError
from tutelage.models.catalog import CATALOG
from tutelage.models.types import ModelRef
from tutelage.registry import suggestion

HUB_ID = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[A-Za-z0-9][\w./-]{0,199}))?"
)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


def parse_ref(name: str) -> ModelRef:
    """The model called `name`: a catalogue name, else an existing folder, else a hub id `org/name[@revision]`."""
    if name in CATALOG:
        return ModelRef("catalog", name)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return ModelRef("folder", str(path))
    if name.lower().endswith(".gguf"):
        raise ModelError(
            "a .gguf file cannot be the base model yet",
            where=name,
            why="only GGUF files of the catalogue are converted so far",
            fix="name the model's safetensors folder, its hub id, or one of: " + ", ".join(sorted(CATALOG)),
        )
    if path.is_file():
        what = "this is a file, and a model is a folder" if name.lower().endswith(WEIGHTS) else "this is not a model"
        raise ModelError(what, where=name, fix=f"name the folder with config.json, e.g. {path.parent}")
    match = HUB_ID.fullmatch(name)
    if match and ".." not in name:
        return ModelRef("hub", match["name"], match["revision"])
    if "/" in name or name.startswith((".", "~")):
        raise MissingInputError(
            "there is no such model folder",
            where=name,
            fix="name an existing folder, or a hub id as org/name[@revision]",
        )
    raise MissingInputError(f"there is no model called `{name}`", fix=suggestion(name, list(CATALOG)))
