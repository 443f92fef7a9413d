"""The run folder: what stands where, atomic writes, the append-only event log.

recipe.yaml      the resolved recipe            manifest.json   versions, hashes, the frozen plan, totals, status
events.jsonl     one event a line               dropped.jsonl   every row that is not trained, and why
contract.json    the token contract's counts    samples.json    prompts with answers before and after
checkpoints/     step-00000100/ ...             model/          a PEFT adapter or from_pretrained folder
forgetting.json  probes before and after        report.html     all of it for a reader
"""

import fcntl
import json
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import MissingInputError, OutputError

MANIFEST = "manifest.json"
EVENTS = "events.jsonl"
FORGETTING = "forgetting.json"
TASK = "task.json"  # in model/: the task with its label names, for whoever uses the model
ALL_TASKS = "tasks.json"  # in model/ where it learnt several: all of them


def fsync_folder(path: Path) -> None:
    """Make renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` then, which is the old file or the whole new one, whatever happens: temporary, fsync,
    rename."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        raise OutputError("cannot write this file", where=str(path), why=error.strerror or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file that is either the old one or the whole new one."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """`value` as JSON values: dataclasses become dicts, paths strings; NaN and infinity, which JSON lacks, null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(f"a verb returned a {type(value).__name__}, which is no JSON value")


def write_json(path: Path, value: Any) -> None:
    """`write_text` of `value` as readable JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON document at `path`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingInputError("there is no such file", where=str(path)) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OutputError("this file of the run folder is damaged", where=str(path), why=str(error)) from error


def create(folder: Path) -> Path:
    """Make `folder` and its parents."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("cannot make the run folder", where=str(folder), why=error.strerror or str(error)) from error
    return folder


@contextmanager
def held(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a folder against other processes, without `wait` or BlockingIOError; the lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except PermissionError as error:  # how some file systems say it
            raise BlockingIOError(*error.args) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder against other processes that would train into it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder, wait=False))
        except BlockingIOError as error:
            raise OutputError(
                "another process works in this run folder", where=str(folder),
                fix="wait for it or stop it, or choose another `out`",
            ) from error  # fmt: skip
        yield


def run_folder(name: str | Path) -> Path | None:
    """The run folder called `name`: a path, or a name below `runs/`; None where there is none."""
    return next((path for path in (Path(name), Path("runs") / name) if (path / MANIFEST).is_file()), None)


def find_run(name: str | Path) -> Path:
    """The run folder called `name`, which must be there."""
    found = run_folder(name)
    if found is None:
        raise MissingInputError(
            "this is not a run folder", where=str(name), why=f"it has no {MANIFEST}", fix="tutelage runs"
        )
    return found


def folder_bytes(folder: Path) -> int:
    """What the folder takes; a file that a running training removes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except FileNotFoundError:
            continue
    return total


def append_event(folder: Path, event: dict[str, Any]) -> None:
    """Add one line to events.jsonl. A torn last line (the writer was killed) is closed first, and readers skip it."""
    path = folder / EVENTS
    line = json.dumps({**event, "time": round(time.time(), 3)}, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with open(path, "ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line
            file.write(line.encode())
    except OSError as error:
        raise OutputError("cannot write the event log", where=str(path), why=error.strerror or str(error)) from error


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """All whole lines of events.jsonl, in the order in which they were written, repeats after a resume included."""
    path = folder / EVENTS
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:  # torn by a kill
                continue
            if isinstance(event, dict) and "event" in event:
                yield event


def history(folder: Path) -> list[dict[str, Any]]:
    """The events as if the run had never been interrupted: what was redone after a resume stands once."""
    kept: list[dict[str, Any]] = []
    for event in read_events(folder):
        if event["event"] == "resumed":
            kept = [old for old in kept if old.get("step", 0) <= event["step"]] if event["step"] else []
        kept.append(event)
    return kept
