"""The checkpoint store: a step's folder appears whole, by rename, with a manifest of hashes; a damaged one is passed over.

Order of writes: every file into `.step-N.<id>.tmp/`, fsync each, the manifest with size and sha256 of each last, fsync
the folder, rename it to `step-N`, fsync the parent. Only then are older checkpoints removed. Tensors are safetensors
and the rest is JSON: no pickle is written or read.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from tutelage.errors import OutputError
from tutelage.runs import fsync_folder

MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
NAME = re.compile(r"step-(\d{8})")
SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory."""

    step: int
    path: Path
    state: dict[str, Any]
    tensors: dict[str, Tensor]


def save(store: Path, step: int, state: Mapping[str, Any], tensors: Mapping[str, Tensor], keep: set[int]) -> Path:
    """Write checkpoint `step` and then remove all others but those in `keep`; OutputError leaves the old ones as they were.

    Where `step` stands already, whole, it stays: a run computes each step once, and the only copy is never moved.
    """
    final = store / f"step-{step:08d}"
    temporary = store / f".{final.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        store.mkdir(parents=True, exist_ok=True)
        _sweep(store)
        if _is_whole(final):
            return final
        temporary.mkdir()
        files = {
            TENSORS: save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}),
            STATE: json.dumps(dict(state), indent=1, allow_nan=False).encode(),
        }
        listed = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
        manifest = json.dumps({"schema": SCHEMA, "step": step, "files": listed}, indent=1).encode()
        for name, data in {**files, MANIFEST: manifest}.items():
            write_durably(temporary / name, data)
        fsync_folder(temporary)
        if final.exists():  # damaged: put aside, to be swept
            os.rename(final, store / f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
        os.rename(temporary, final)
        fsync_folder(store)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            "the checkpoint could not be saved" + (": the disk is full" if full else ""), where=str(final),
            why=error.strerror or str(error), fix="free some space; the checkpoint before this one is intact",
        ) from error  # fmt: skip
    for other, path in steps(store).items():
        if other not in keep and other != step:
            shutil.rmtree(path, ignore_errors=True)
    _sweep(store)
    return final


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def steps(store: Path) -> dict[int, Path]:
    """The checkpoint folders by step, oldest first, verified or not."""
    if not store.is_dir():
        return {}
    found = {int(match[1]): path for path in store.iterdir() if (match := NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def load(path: Path) -> Checkpoint:
    """The checkpoint in `path`; ValueError says what is wrong with a torn or flipped one."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        files = {name: (path / name).read_bytes() for name in (TENSORS, STATE)}
        for name, data in files.items():
            listed = manifest["files"][name]
            if len(data) != listed["size"] or hashlib.sha256(data).hexdigest() != listed["sha256"]:
                raise ValueError(f"{name} is not what was written (size or sha256 differ)")
        if manifest["schema"] != SCHEMA or int(NAME.fullmatch(path.name)[1]) != manifest["step"]:  # type: ignore[index]
            raise ValueError("its manifest belongs to another checkpoint")
        return Checkpoint(manifest["step"], path, json.loads(files[STATE]), load_tensors(files[TENSORS]))
    except (OSError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(f"it is incomplete or damaged: {error}") from error


def newest(store: Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest good checkpoint, and a sentence about each newer one that was damaged."""
    skipped: list[str] = []
    for _, path in reversed(steps(store).items()):
        try:
            return load(path), tuple(skipped)
        except ValueError as error:
            skipped.append(f"{path.name} was passed over: {error}")
    return None, tuple(skipped)


def _is_whole(path: Path) -> bool:
    try:
        load(path)
    except ValueError:
        return False
    return True


def _sweep(store: Path) -> None:
    """Remove what a killed save left behind, and what was put aside."""
    for path in store.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
