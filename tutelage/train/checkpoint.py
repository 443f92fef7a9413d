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
import struct
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tutelage.errors import OutputError
from tutelage.runs import fsync_folder

MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
NAME = re.compile(r"step-(\d{8})")
SCHEMA = 1
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.uint8: "U8",
}  # fmt: skip


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
        text = json.dumps(dict(state), indent=1, allow_nan=False).encode()
        listed = {
            TENSORS: write_durably(temporary / TENSORS, stored(tensors)), STATE: write_durably(temporary / STATE, [text])
        }  # fmt: skip
        manifest = json.dumps({"schema": SCHEMA, "step": step, "files": listed}, indent=1).encode()
        write_durably(temporary / MANIFEST, [manifest])
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


def stored(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A safetensors file piece by piece, so that a checkpoint takes no memory: at 135M parameters its state is 1.6 GB."""
    header, start = {}, 0
    for name, tensor in tensors.items():
        stop = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().view(-1)
        yield flat.view(torch.uint8).numpy().data if tensor.numel() else b""


def write_durably(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write the pieces and wait until they are on the disk; the file's size and sha256."""
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


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
        for name in (TENSORS, STATE):
            listed = manifest["files"][name]
            with open(path / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if (path / name).stat().st_size != listed["size"] or digest != listed["sha256"]:
                raise ValueError(f"{name} is not what was written (size or sha256 differ)")
        if manifest["schema"] != SCHEMA or int(NAME.fullmatch(path.name)[1]) != manifest["step"]:  # type: ignore[index]
            raise ValueError("its manifest belongs to another checkpoint")
        state = json.loads((path / STATE).read_bytes())
        return Checkpoint(manifest["step"], path, state, load_file(path / TENSORS))
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
