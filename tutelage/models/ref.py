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
HUB_GGUF = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)[:/](?P<file>[\w./-]+\.gguf)", re.IGNORECASE)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


def parse_ref(name: str) -> ModelRef:
    """The model called `name`: a catalogue name, an existing folder or GGUF file, else a hub id `org/name[@revision]`."""
    if name in CATALOG:
        return ModelRef("catalog", name)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return ModelRef("folder", str(path))
    if path.is_file() and (name.lower().endswith(".gguf") or _begins_like_gguf(path)):
        return ModelRef("gguf", str(path))
    if name.lower().endswith(".gguf"):
        raise _no_gguf(name)
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


def _begins_like_gguf(path: Path) -> bool:
    """Some programs store GGUF files under other names (Ollama's blobs)."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def _no_gguf(name: str) -> MissingInputError:
    match = HUB_GGUF.fullmatch(name)
    if match is None:
        return MissingInputError("there is no such GGUF file", where=name, fix="check the path")
    return MissingInputError(
        "there is no such GGUF file", where=name,
        why="a GGUF file is read from this machine's disk, not from a hub repository",
        fix=f"if it is on the hub: hf download {match['repo']} {match['file']} --local-dir . ; then name ./{match['file']}",
    )  # fmt: skip
