"""An artefact on disk: written beside its place, opened again, held to the trained model, and only then renamed."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.errors import OutputError, UsageError
from tutelage.export.acceptance import broken, commands
from tutelage.export.card import Facts, card, facts_of
from tutelage.export.folder_replica import FolderReplica
from tutelage.export.parity import enforce, make_cases, measure
from tutelage.export.prompts import hard_texts, held_out
from tutelage.export.types import ENCODER_KINDS, EXPORTERS, Figures, Source
from tutelage.methods.opening import Located, load_located
from tutelage.runs import create, fsync_folder, read_json, write_json, write_text

RECEIPT = "parity.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Artifact:
    """A finished export. `parity` are the figures of the gate that it passed."""

    path: Path
    kind: str
    precision: str
    files: dict[str, int]  # name → bytes
    parity: Figures
    commands: dict[str, str]  # program → the command line that serves it
    broken: list[str]  # rules of those programs that it breaks, each with its source

    def as_json(self) -> dict[str, Any]:
        """What the verb returns."""
        return {
            "path": str(self.path), "kind": self.kind, "precision": self.precision, "files": self.files,
            "parity": self.parity.as_json(), "commands": self.commands, "broken_rules": self.broken,
        }  # fmt: skip


def parse_kind(kind: str) -> tuple[str, str]:
    """`gguf:q8_0` → ("gguf", "q8_0"); without a precision the kind's default one."""
    name, _, precision = kind.lower().partition(":")
    known = ENCODER_KINDS.get(name) or EXPORTERS.get(name).precisions
    if precision and precision not in known:
        raise UsageError(f"{name} has no precision `{precision}`", where="to", fix=f"one of: {', '.join(known)}")
    return name, precision or known[0]


def default_folder(located: Located, kind: str, precision: str) -> Path:
    """Where an export goes unless told otherwise: into the run folder, or below exports/."""
    if located.run is not None:
        return located.run / "exports" / f"{kind}-{precision}"
    return Path("exports") / Path(located.name).name / f"{kind}-{precision}"


def export_model(
    located: Located,
    kind: str,
    out: Path,
    *,
    prompts: int,
    max_tokens: int,
    texts: int,
    say: Say,
    data: str | None = None,
) -> Artifact:
    """Write the model as `kind` into the folder `out`, which appears only after the parity gate was passed."""
    name, precision = parse_kind(kind)
    exporter = EXPORTERS.get(name)
    facts = facts_of(located)
    refuse_occupied(out)
    opened = load_located(located, torch.float32, merge=False)
    source = Source(located, opened.model, opened.tokenizer, opened.template)
    with workspace(out) as folder:
        say(f"writing {name}:{precision}")
        exporter.write(source, folder, precision)
        rows, is_held_out = held_out(located.run, source.template, prompts, say, data)
        say(f"parity: the trained model answers {len(rows)} prompts")
        cases = list(make_cases(source, rows, max_tokens))
        trained = FolderReplica(source.model, source.template, "in memory")
        replica = exporter.reopen(source, folder)
        try:
            say(f"parity: replaying them with {replica.runner}")
            parity = measure(source, replica, trained, cases, hard_texts(texts), is_held_out)
        finally:
            replica.close()
        enforce(parity, exporter.bounds(precision), f"{located.name} as {name}:{precision}")
        return finish(folder, out, name, precision, facts, parity, "chat", stamp(located))


def finish(
    folder: Path, out: Path, kind: str, precision: str, facts: Facts, parity: Figures, task: str, source: str
) -> Artifact:  # fmt: skip
    """Write card and receipt of an export that passed its gate into `folder`, and let it appear as `out`. `source` is the
    `stamp` of what it was made from."""
    write_text(folder / "README.md", card(facts, kind, precision, parity, task))
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    write_json(
        folder / RECEIPT, {"kind": kind, "precision": precision, "files": sizes, "source": source, **parity.as_json()}
    )
    _publish(folder, out)
    if task != "chat":  # the programs that are known run models that go on with texts
        return Artifact(out, kind, precision, sizes, parity, {}, [])
    return Artifact(out, kind, precision, sizes, parity, commands(kind, out, facts.name), broken(kind, out))


def refuse_occupied(out: Path) -> None:
    """An OutputError where `out` holds something else than an export."""
    if out.exists() and any(out.iterdir()) and not (out / RECEIPT).is_file():
        raise OutputError(
            "this folder holds something that is not an export", where=str(out), fix="choose another folder: --out DIR"
        )


@contextlib.contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, gone at the end whatever happened."""
    create(out.parent)
    folder = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.unfinished"
    try:
        folder.mkdir()
        yield folder
    except OSError as error:
        raise OutputError("the export cannot be written", where=str(out), why=error.strerror or str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, out: Path) -> None:
    """Make every file durable, then rename; an earlier export at `out` is replaced."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    fsync_folder(folder)
    if out.exists():
        old = folder.with_suffix(".old")
        out.rename(old)
        folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(out)
    fsync_folder(out.parent)


def stamp(located: Located) -> str:
    """Changes whenever a file of the model or of its adapter is written, moved or replaced."""
    folders = [path for path in (located.model, located.adapter) if path is not None]
    files = sorted(file for folder in folders for file in folder.resolve().iterdir() if file.is_file())
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_artifact(folder: Path, of: Located | None = None) -> dict[str, Any]:
    """The receipt of a finished export; a folder that has none, or whose files have other sizes, is an OutputError.

    So is one that was made `of` another model, or of this one before it was written again.
    """
    if not (folder / RECEIPT).is_file():
        raise OutputError(
            "this is not a finished export",
            where=str(folder),
            why=f"it has no {RECEIPT}",
            fix="tutelage export RUN --to …",
        )
    receipt: dict[str, Any] = read_json(folder / RECEIPT)
    for name, size in receipt["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise OutputError("a file of this export is missing or was changed", where=str(path), fix="export it again")
    if of is not None and receipt.get("source") != stamp(of):
        raise OutputError("this is an export of another model", where=str(folder), fix="export it again")
    return receipt
