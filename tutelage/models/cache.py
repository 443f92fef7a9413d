"""The cache of fetched models: complete folders only, whatever was killed and however many fetch at once.

A model is made in a workspace beside its final place and appears there by rename. The process that owns a workspace
holds a lock on it, which ends with the process: a workspace that nobody holds is a leftover and is removed.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tutelage.errors import OutputError, TutelageError
from tutelage.models.safetensors_file import sha256_of, shards
from tutelage.runs import fsync_folder, held, read_json, write_json

RECEIPT = "tutelage.json"
WORKSPACE = ".fetching-"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a cached folder says of itself: where it came from, and the size and sha256 of every file."""

    name: str
    source: str
    sha256: str
    licence: str | None
    files: dict[str, tuple[int, str]]


def cache_root() -> Path:
    """The folder of fetched models: $TUTELAGE_CACHE, or ~/.cache/tutelage/models."""
    given = os.environ.get("TUTELAGE_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "tutelage" / "models"


def read_receipt(folder: Path) -> Receipt:
    """The receipt of a complete cached folder. Anything missing, of another size, or changed is an OutputError.

    Weights are held to their size only (hashing them takes a second per gigabyte), all other files to their hash.
    """
    try:
        value = read_json(folder / RECEIPT)
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in value["files"].items()}
        receipt = Receipt(value["name"], value["source"], value["sha256"], value["licence"], files)
    except (KeyError, TypeError, ValueError, AttributeError, TutelageError) as error:
        raise OutputError("this cached model has no usable receipt", where=str(folder / RECEIPT)) from error
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise OutputError("a file of this cached model is missing or has another size", where=str(path))
        if not name.endswith(".safetensors") and sha256_of((path,)) != digest:
            raise OutputError("a file of this cached model was changed", where=str(path))
    return receipt


def write_receipt(folder: Path, name: str, source: str, licence: str | None) -> Receipt:
    """Make every file of `folder` durable, then write the receipt that calls it complete."""
    files: dict[str, tuple[int, str]] = {}
    for path in sorted(folder.iterdir()):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        files[path.name] = (path.stat().st_size, sha256_of((path,)))
    weights = shards(folder)
    digest = files[weights[0].name][1] if len(weights) == 1 else sha256_of(weights)
    receipt = Receipt(name, source, digest, licence, files)
    write_json(folder / RECEIPT, asdict(receipt))
    return receipt


@contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """An empty folder inside `root` for one fetch, removed at the end; what killed processes left is removed first."""
    folder = root / f"{WORKSPACE}{uuid.uuid4().hex[:12]}"
    holding = ExitStack()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with held(root):
            _remove_leftovers(root)
            folder.mkdir()
            holding.enter_context(held(folder))
        yield folder
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputError(
            "cannot write into the model cache", where=str(root), why=why, fix="free some disk, or set TUTELAGE_CACHE"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        holding.close()


def _remove_leftovers(root: Path) -> None:
    for folder in root.glob(f"{WORKSPACE}*"):
        with suppress(BlockingIOError), held(folder, wait=False):  # another process works in it
            shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, final: Path) -> Receipt:
    """Move the complete folder `made` to `final`; where another process was faster, its copy stays and is returned."""
    with held(final.parent):
        if final.exists():
            try:
                return read_receipt(final)
            except OutputError:
                os.rename(final, made.with_name("damaged"))  # goes with the workspace
        fsync_folder(made)
        os.rename(made, final)
        fsync_folder(final.parent)
    return read_receipt(final)
