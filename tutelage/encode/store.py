"""Encoded rows on disk: written once, mapped into memory, and found again by whatever trains on the same content.

A store is a folder of raw little-endian arrays and a manifest with their sizes and hashes. Its name is a hash over
everything that decides the tokens (`key_of`), it appears by rename, and one whose files are not what its manifest says
is built again. All stores together are held below `MOST_BYTES`: the least recently used ones are removed. Removing
the folder `store_root()` is always safe.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.encode.rows import Columns, Rows
from tutelage.encode.template import Template
from tutelage.errors import OutputError, TutelageError
from tutelage.models.cache import cache_root, workspace
from tutelage.runs import held, read_json, write_json

ENCODER = 1  # raise it with every change of what is encoded
MANIFEST = "manifest.json"
MOST_BYTES = 16 * 1024**3
ARRAYS = {"ids": "<i4", "weights": "<f4", "roles": "u1", "starts": "<i8", "sources": "<i4", "rows": "<i8"}
CLOCK = "strftime_now"  # a template that writes the date gives other tokens each day

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows of a store. `sha256` is that of their ids, weights and lengths; `reused` if nothing had to be encoded."""

    rows: Rows
    sha256: str
    reused: bool


def store_root() -> Path:
    """The folder of all stores: $TUTELAGE_ENCODED, or `encoded` beside the cached models."""
    given = os.environ.get("TUTELAGE_ENCODED")
    if given:
        return Path(given).expanduser()
    return cache_root() / ".encoded" if os.environ.get("TUTELAGE_CACHE") else cache_root().parent / "encoded"


def key_of(template: Template, task: dict[str, Any], content: str) -> str:
    """The name of a store: a hash over the data's `content`, the task's encoding keys, tokenizer, template and versions."""
    values = [
        ENCODER, content, task, template.text, sorted(template.stop_ids), template.tokenizer.special_tokens_map,
        {name: version(name) for name in ("tokenizers", "transformers", "jinja2")},
        time.strftime("%Y-%m-%d") if CLOCK in template.text else "",
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    digest.update(template.backend.to_str().encode())
    return digest.hexdigest()[:40]


def open_store(key: str, encode: Callable[[], Iterator[Columns]], say: Say) -> Stored:
    """The store `key`, built from the chunks of `encode()` if there is no good one.

    Where the cache cannot be written, the rows are kept in a temporary file for this run only, and `say` tells so.
    """
    final = store_root() / key
    found = _read(final)
    if found is not None:
        return found
    try:
        with workspace(store_root()) as made:
            built = made / "store"
            _write(built, encode())
            _publish(built, final)
            _make_room(final)
            found = _read(final)
    except OutputError as error:
        say(f"note: encoded rows are not kept for the next run: {error.problems[0].what} {store_root()}")
    if found is None:
        found = _temporary(encode)
    return Stored(found.rows, found.sha256, reused=False)


def _temporary(encode: Callable[[], Iterator[Columns]]) -> Stored:
    try:
        with tempfile.TemporaryDirectory(prefix="tutelage-encoded-") as folder:
            _write(Path(folder) / "store", encode())
            found = _read(Path(folder) / "store")  # stays mapped when its files are gone
    except OSError as error:
        raise OutputError(
            "cannot write the encoded rows anywhere",
            where=f"{store_root()} and {tempfile.gettempdir()}",
            why=error.strerror or str(error),
            fix="free some disk, or set TUTELAGE_ENCODED",
        ) from error
    assert found is not None
    return found


def _write(folder: Path, chunks: Iterable[Columns]) -> None:
    folder.mkdir()
    files = {name: open(folder / name, "wb") for name in ARRAYS}  # noqa: SIM115 (all of them are closed below)
    hashes = {name: hashlib.sha256() for name in ARRAYS}
    names: dict[str, int] = {}
    tokens = 0

    def put(name: str, values: NDArray[Any]) -> None:
        data = np.ascontiguousarray(values, dtype=ARRAYS[name]).data
        files[name].write(data)
        hashes[name].update(data)

    try:
        put("starts", np.zeros(1))
        for chunk in chunks:
            for name in ("ids", "weights", "roles", "rows"):
                put(name, getattr(chunk, name))
            put("starts", chunk.starts[1:] + tokens)
            number = np.array([names.setdefault(name, len(names)) for name in chunk.names])
            put("sources", number[chunk.sources])
            tokens += len(chunk.ids)
    finally:
        for file in files.values():
            file.close()
    sizes = {name: [(folder / name).stat().st_size, hashes[name].hexdigest()] for name in ARRAYS}
    write_json(folder / MANIFEST, {"encoder": ENCODER, "names": list(names), "files": sizes})


def _read(folder: Path) -> Stored | None:
    """The store in `folder`, or None if there is none or its files are not those of its manifest."""
    try:
        manifest = read_json(folder / MANIFEST)
        files = manifest["files"]
        for name in ARRAYS:
            with open(folder / name, "rb") as file:
                if [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()] != files[name]:
                    return None
        arrays = {name: _mapped(folder / name, kind) for name, kind in ARRAYS.items()}
        columns = Columns(**arrays, names=tuple(manifest["names"]))
        os.utime(folder)  # used just now
    except (OSError, ValueError, KeyError, TypeError, TutelageError):
        return None
    content = "".join(files[name][1] for name in ("ids", "weights", "starts"))
    return Stored(Rows.all(columns), hashlib.sha256(content.encode()).hexdigest(), reused=True)


def _mapped(path: Path, kind: str) -> NDArray[Any]:
    if path.stat().st_size == 0:
        return np.zeros(0, kind)
    return np.memmap(path, dtype=kind, mode="r").view(np.ndarray)  # slices of a plain array are cheaper


def _publish(made: Path, final: Path) -> None:
    """Give the store its name; a good one that another process has published meanwhile stays."""
    with held(final.parent):
        if final.exists():
            if _read(final) is not None:
                return
            os.rename(final, made.with_name("damaged"))  # goes with the workspace
        os.rename(made, final)


def _make_room(used: Path) -> None:
    """Remove the least recently used stores until all together are small enough; `used` stays."""
    with held(used.parent):
        stores = [folder for folder in used.parent.iterdir() if (folder / MANIFEST).is_file() and folder != used]
        stores.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        total = _size(used)
        for folder in stores:
            total += _size(folder)
            if total > MOST_BYTES:
                shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
