"""The first pass of `data prepare`: chunks of rows are decided about, cleaned and looked at, each by itself."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count as numbers
from itertools import islice
from typing import Any

from tutelage.data.cleaning import Rules, choose
from tutelage.data.decisions import Decision, read_decisions, row_key
from tutelage.data.quality.check import CHUNK, in_order
from tutelage.data.quality.chunk import as_document, from_document
from tutelage.data.quality.findings import Tally, snippet
from tutelage.data.quality.keys import key
from tutelage.data.quality.profile import Profile
from tutelage.data.quality.scan import Scan, Task, look
from tutelage.data.quality.view import View, view
from tutelage.data.shards import WHOLE, Arrays, Shard
from tutelage.data.sources import MEMORY, Row, files, read, read_memory, renamed
from tutelage.data.types import At
from tutelage.data.ways import all_sources, way, ways
from tutelage.errors import DataError, Problem
from tutelage.recipe import DataSpec, SourceSpec

Say = Callable[[str], None]
TIME_BYTES = 40
SHOWN = 200  # characters of a changed text, before and after


@dataclass(frozen=True)
class Job:
    """One chunk of the first pass."""

    task: Task
    rules: Rules
    decisions: dict[str, Decision]
    group: str | None
    time: str | None
    weight: float
    way: str


@dataclass
class Done:
    """What the first pass made of a chunk: the scan of the rows that stay, the rows themselves, and the records."""

    scan: Scan
    lines: list[bytes] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    times: list[bytes] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    changed: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


PLAIN = ("formats", "ways", "groups", "held", "copies", "dropped", "changed")  # of `Done`, as they are


def first_pass(job: Job) -> Done:
    """Decide, clean and look at the rows of a chunk."""
    tally, profile = Tally(), Profile()
    viewed: list[tuple[At, View]] = []
    done = Done(Scan(tally, profile, None, None, job.task.place))  # type: ignore[arg-type]  # filled in below
    for item in job.task.rows:
        if isinstance(item, Problem):
            done.problems.append(item)
            done.dropped.append(record(_place(item), "unreadable_row", item.what))
            continue
        at, raw = item
        kept = _kept(at, raw, job, done)
        if kept is not None:
            row, seen = kept
            profile.add_row(row, at)
            viewed.append((at, seen))
            done.lines.append(
                json.dumps({**row, "_at": str(at)}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            )
            done.formats.append(seen.format)
            done.ways.append(job.way)
            done.groups.append(key(row.get(job.group)) if job.group else 0)
            done.times.append(str(row.get(job.time, "")).encode()[:TIME_BYTES] if job.time else b"")
            done.copies.append(_copies(job.weight, row))
    done.scan = look(viewed, job.task, tally, profile)
    return done


def _kept(at: At, raw: dict[str, object], job: Job, done: Done) -> tuple[dict[str, object], View] | None:
    decision = job.decisions.get(row_key(raw)) if job.decisions else None
    decided = decision.applied(raw) if decision else raw
    if decided is None:
        done.dropped.append(record(at, "reviewed", decision.note if decision else ""))
        return None
    row, rules = job.rules.clean(decided)
    try:
        seen = view(row, at, job.task.format)
    except DataError as error:
        done.problems += error.problems
        done.dropped.append(record(at, "wrong_format", error.problems[0].what))
        return None
    held = decision is not None and decision.decision != "drop"
    if not held and (dropped := job.rules.drop(seen)):
        done.dropped.append(record(at, *dropped, text=seen.prompt))
        return None
    if decided is not raw:
        rules = [f"review: {decision.decision}" if decision else "review", *rules]
    if rules:
        done.changed.append(_change(at, rules, raw, row))
    done.held.append(held)
    return row, seen


def record(at: At, reason: str, detail: str = "", text: str = "") -> dict[str, Any]:
    """A line of dropped.jsonl."""
    found = {"file": at.source, "row": at.row, "reason": reason, "detail": detail, "text": snippet(text)}
    return {name: value for name, value in found.items() if value != ""}


def _change(at: At, rules: list[str], before: dict[str, object], after: dict[str, object]) -> dict[str, Any]:
    fields = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    shown = {name: [_text(side.get(name))[:SHOWN] for side in (before, after)] for name in fields}
    return {"file": at.source, "row": at.row, "rules": rules, "fields": shown}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _place(problem: Problem) -> At:
    source, _, row = problem.where.rpartition(":")
    return At(source, int(row)) if source and row.isdigit() else At(problem.where, 1)


def _copies(weight: float, row: dict[str, object]) -> int:
    """How often a row is written: the whole part of the weight, and once more for a share of rows chosen by content."""
    whole = int(weight)
    return whole if weight == whole else whole + (key(row_key(row)) / 2**64 < weight - whole)


def first_passes(spec: DataSpec, processes: int | None, say: Say, shard: Shard = WHOLE) -> Iterator[Done]:
    """What becomes of the rows of `shard`, chunk by chunk in their order; broken rows are an error if the spec says so."""
    rules, decisions = choose(spec.clean), read_decisions(spec.decisions)
    for done in in_order(first_pass, _jobs(spec, rules, decisions, shard), processes, say):
        if done.problems and spec.broken == "error":
            raise DataError(done.problems, total=len(done.problems))
        yield done


def _jobs(spec: DataSpec, rules: Rules, decisions: dict[str, Decision], shard: Shard) -> Iterator[Job]:
    streams, names = list(_streams(spec)), ways(spec)
    for index, (part, source, rows) in enumerate(streams):
        if not shard.reads(index, len(streams)):
            continue
        name = next(name for name, one in names.items() if one == way(source))
        for number in numbers():
            if not (chunk := list(islice(rows, CHUNK))):
                break
            if shard.has(index, number, len(streams)):
                threshold = spec.dedupe.near or 0.8
                task = Task(chunk, part, index, source.format, threshold, on=spec.dedupe.by, chunk=number)
                yield Job(task, rules, decisions, spec.split.group, spec.split.time, source.weight, name)


def files_of(spec: DataSpec) -> list[str]:
    """Every file that the sources name."""
    return [file for source in all_sources(spec) for file in _files(source)]


def _files(source: SourceSpec) -> list[str]:
    return [source.path] if source.target else files(source.path, source.format)


def _streams(spec: DataSpec) -> Iterator[tuple[int, SourceSpec, Iterator[Row | Problem]]]:
    """(part, source, rows) for each file of each part."""
    given = [source if isinstance(source, list) else [] for source in (spec.train, spec.validation, spec.test)]
    if spec.rows:
        yield 0, SourceSpec(path=MEMORY), read_memory(spec.rows)
    for part, sources in enumerate(given):
        for source in sources:
            for file in _files(source):
                yield part, source, renamed(read(file, source.format, source.target), source.columns)


def pack_done(done: Done) -> tuple[dict[str, Any], Arrays]:
    """What became of a chunk as a JSON document and arrays."""
    document, arrays = as_document(done.scan)
    return {
        **document,
        **{name: getattr(done, name) for name in PLAIN},
        "lines": b"".join(done.lines).decode(),
        "times": [time.decode("latin-1") for time in done.times],
        "problems": [asdict(problem) for problem in done.problems],
    }, arrays


def unpack_done(document: dict[str, Any], arrays: Arrays) -> Done:
    """What `pack_done` wrote down."""
    return Done(
        from_document(document, arrays),
        lines=document["lines"].encode().splitlines(keepends=True),
        times=[time.encode("latin-1") for time in document["times"]],
        problems=[Problem(**problem) for problem in document["problems"]],
        **{name: document[name] for name in PLAIN},
    )
