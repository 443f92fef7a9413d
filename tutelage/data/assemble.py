"""`data prepare`: read, decide, clean, find repeats, split, and write the prepared folder.

Two passes. The first goes over the sources in chunks, in several processes, and spools the cleaned rows; what is
remembered of each row is a few hundred bytes on disk. The second decides about all rows at once and copies the spooled
ones into their files. Nothing depends on the number of processes.
"""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tutelage.data import folder as layout
from tutelage.data.cleaning import choose
from tutelage.data.firstpass import TIME_BYTES, Done, Say, first_passes, record
from tutelage.data.formats import FORMATS
from tutelage.data.placing import SPLITS, Extra, Placing, place
from tutelage.data.quality import near
from tutelage.data.quality.findings import Tally
from tutelage.data.quality.profile import Profile
from tutelage.data.quality.store import Store
from tutelage.data.types import At
from tutelage.data.ways import ways
from tutelage.errors import DataError, OutputError
from tutelage.recipe import DataSpec
from tutelage.runs import create, write_json


def assemble(spec: DataSpec, out: Path, *, seed: int, processes: int | None, say: Say) -> dict[str, Any]:
    """Prepare the data of `spec` into the folder `out`, which appears as a whole; returns its manifest."""
    return put_together(spec, first_passes(spec, processes, say), out, seed=seed)


def put_together(spec: DataSpec, passed: Iterable[Done], out: Path, *, seed: int) -> dict[str, Any]:
    """The second pass over what became of all rows, which come in their order, into the folder `out`."""
    create(out.parent)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        spool = _Spool(work, spec.dedupe.near or 0.8)
        with spool:
            for done in passed:
                spool.add(done)
        if not len(spool.store.facts()):
            raise DataError(
                "no rows are left", where=", ".join(source.path for source in spec.train), why=_reasons(spool.dropped)
            )
        manifest = _second_pass(spec, spool, work / "done", seed)
        _replace(work / "done", out)
        return manifest
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Spool:
    """The rows between the passes: their lines in one file, their facts in a store, the rest in lists of small values."""

    def __init__(self, work: Path, threshold: float) -> None:
        self.path, self.threshold = work / "rows.jsonl", threshold
        self.store = Store(work / "facts")
        self.profile, self.tally = Profile(), Tally()
        self.formats: list[str] = []
        self.ways: list[str] = []
        self.copies: list[int] = []
        self.groups: list[int] = []
        self.times: list[bytes] = []
        self.held: list[bool] = []
        self.dropped: list[dict[str, Any]] = []
        self.changed = work / layout.CHANGED
        self.changes = 0

    def __enter__(self) -> "_Spool":
        self.rows, self.changed_file = open(self.path, "wb"), open(self.changed, "wb")
        return self

    def __exit__(self, *error: object) -> None:
        self.rows.close()
        self.changed_file.close()

    def add(self, done: Done) -> None:
        """Keep what a chunk became."""
        self.rows.writelines(done.lines)
        self.changed_file.writelines(_line(change) for change in done.changed)
        self.changes += len(done.changed)
        self.store.append(done.scan.facts, done.scan.sketches)
        self.tally.merge(done.scan.tally)
        self.profile.merge(done.scan.profile)
        for name in ("formats", "ways", "copies", "groups", "times", "held", "dropped"):
            getattr(self, name).extend(getattr(done, name))


def _second_pass(spec: DataSpec, spool: _Spool, out: Path, seed: int) -> dict[str, Any]:
    facts = spool.store.facts()
    names = ways(spec)
    numbers = {name: number for number, name in enumerate(names)}
    extra = Extra(
        np.array(spool.groups, np.uint64),
        np.array(spool.times, f"S{TIME_BYTES}"),
        np.array(spool.held, bool),
        np.array([numbers[name] for name in spool.ways], np.uint64),
    )
    placing = place(facts, spool.store.sketches(near.shape(spool.threshold)[0]), extra, spec, seed)
    create(out)
    counts, digest, parts, own = _write_rows(spool, placing, out)
    _write_dropped(spool, placing, out)
    shutil.move(spool.changed, out / layout.CHANGED)
    with open(out / layout.DROPPED, "rb") as file:
        dropped = Counter(json.loads(line)["reason"] for line in file)
    manifest = {
        "counts": counts,
        "dropped": dict(sorted(dropped.items())),
        "changed": spool.changes,
        "rules": list(choose(spec.clean).chosen),
        "fingerprint": digest,
        "parts": parts,
        "ways": {file: names[name] for file, name in own.items()},
        "files": {path.name: layout.sha256(path) for path in sorted(out.iterdir())},
        "settings": layout.settings(spec, seed),
    }
    write_json(out / layout.MANIFEST, manifest)
    return manifest


def _write_rows(
    spool: _Spool, placing: Placing, out: Path
) -> tuple[dict[str, int], str, dict[str, dict[str, str | None]], dict[str, str]]:
    """Rows per split, the fingerprint, the format of each file of each split, and the way of those that have one."""
    several = len(set(spool.formats)) > 1
    opened: dict[str, BinaryIO] = {}
    parts: dict[str, dict[str, str | None]] = {name: {} for name in SPLITS}
    own: dict[str, str] = {}
    counts = dict.fromkeys(SPLITS, 0)
    digests = {name: hashlib.sha256() for name in SPLITS}
    with ExitStack() as stack, open(spool.path, "rb") as rows:
        for line, split, form, way, copies in zip(
            rows, placing.split.tolist(), spool.formats, spool.ways, spool.copies
        ):
            if split < 0:
                continue
            name = SPLITS[split]
            file = ".".join([name, *([way] if way else []), *([form] if several else []), "jsonl"])
            if file not in opened:
                opened[file] = stack.enter_context(open(out / file, "wb"))
                parts[name][file] = form if form in set(FORMATS) else None
                own |= {file: way} if way else {}
            number = copies if split == 0 else 1
            for _ in range(number):
                opened[file].write(line)
                digests[name].update(line[: line.rfind(b', "_at": ')] + b"\n")
            counts[name] += number
    digest = hashlib.sha256("".join(digests[name].hexdigest() for name in SPLITS).encode()).hexdigest()
    return counts, digest, parts, own


def _write_dropped(spool: _Spool, placing: Placing, out: Path) -> None:
    """Every dropped row in the order of files and rows; a repeat names the row that it repeats."""
    records = list(spool.dropped)
    wanted = placing.reasons.keys() | {like for _, like in placing.reasons.values()}
    places: dict[int, str] = {}
    with open(spool.path, "rb") as rows:
        for row, line in enumerate(rows):
            if row in wanted:
                places[row] = json.loads(line)["_at"]
    facts = spool.store.facts()
    for row, (reason, like) in placing.reasons.items():
        text = bytes(facts.snippet[row]).decode("utf-8", "replace")
        detail = f"like {places[like]}" if like >= 0 else ""
        source, _, number = places[row].rpartition(":")
        records.append(record(At(source, int(number)), reason, detail, text))
    order = {source: place for place, source in enumerate(spool.profile.rows)}
    records.sort(key=lambda record: (order.get(record["file"], -1), record["file"], record["row"]))
    with open(out / layout.DROPPED, "wb") as file:
        file.writelines(map(_line, records))


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _reasons(dropped: list[dict[str, Any]]) -> str:
    reasons = Counter(record["reason"] for record in dropped)
    return "dropped were " + ", ".join(f"{count} as {reason}" for reason, count in reasons.items())


def _replace(made: Path, out: Path) -> None:
    """Put the folder `made` in the place of `out`, which must be missing, empty or a prepared folder."""
    if out.exists():
        if any(out.iterdir()) and not (out / layout.MANIFEST).is_file():
            raise OutputError(
                "the folder is not empty and no prepared folder", where=str(out), fix="name another folder"
            )
        shutil.rmtree(out)
    made.rename(out)
