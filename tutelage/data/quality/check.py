"""The check of data files: one pass over the rows in several processes, then what only all rows together show."""

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count as numbers
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tutelage.data.quality import near
from tutelage.data.quality.advice import advise
from tutelage.data.quality.findings import EXAMPLES, Finding, Tally, example
from tutelage.data.quality.labels import look_at_labels
from tutelage.data.quality.languages import look_at_languages
from tutelage.data.quality.profile import Profile, as_json
from tutelage.data.quality.repeats import Repeats
from tutelage.data.quality.scan import Scan, Task, problem_example, scan
from tutelage.data.quality.store import Store
from tutelage.data.shards import WHOLE, Shard
from tutelage.data.sources import Row, read
from tutelage.data.types import At
from tutelage.errors import Problem, TutelageError

CHUNK = 1000  # rows that a process scans at once
FEW_ROWS = 20_000  # below this, starting processes takes longer than they save
THRESHOLD = 0.8
Say = Callable[[str], None]
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Source:
    """A file to check: `part` is 0 for training, another number for held-out files."""

    file: str
    part: int = 0
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. `ok` is false where a finding is an error."""

    ok: bool
    rows: int
    findings: tuple[Finding, ...]
    profile: dict[str, Any]
    advice: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is checked and how: `threshold` is the Jaccard similarity of near-duplicates.

    Of each finding the first `examples` are given. `problems` are those of files that cannot even be opened as data;
    they become findings.
    """

    sources: tuple[Source, ...]
    problems: tuple[Problem, ...] = ()
    threshold: float = THRESHOLD
    examples: int = EXAMPLES


def check(
    sources: Sequence[Source],
    problems: Sequence[Problem] = (),
    *,
    threshold: float = THRESHOLD,
    processes: int | None = None,
    examples: int = EXAMPLES,
    say: Say,
) -> Report:
    """Look at all rows of `sources`; changes nothing. The other arguments are those of `Plan`."""
    plan = Plan(tuple(sources), tuple(problems), threshold, examples)
    return report_of(plan, scans(plan, processes, say))


def scans(plan: Plan, processes: int | None, say: Say, shard: Shard = WHOLE) -> Iterator[Scan]:
    """What the rows of `shard` show by themselves, in their order."""
    return in_order(scan, _tasks(plan, shard), processes, say)


def report_of(plan: Plan, scanned: Iterable[Scan]) -> Report:
    """The report on the scans of all rows, which come in the order of files and rows."""
    tally, profile = Tally(most=plan.examples), Profile()
    for problem in plan.problems:
        tally.add("unreadable_file", problem_example(problem))
    with tempfile.TemporaryDirectory(prefix="tutelage-check-") as folder:
        store = Store(Path(folder))
        for part in scanned:
            tally.merge(part.tally)
            profile.merge(part.profile)
            store.append(part.facts, part.sketches)
        repeats = Repeats(store.facts(), [source.file for source in plan.sources])
        repeats.find(tally, store.sketches(near.shape(plan.threshold)[0]), plan.threshold)
    _look_at_files(profile, tally)
    look_at_labels(profile, tally)
    notes = look_at_languages(profile, tally)
    advice = advise(profile, tally)
    findings = tuple(tally.findings())
    rows = profile.rows.total()
    return Report(
        rows > 0 and not any(finding.severity == "error" for finding in findings),
        rows, findings, as_json(profile), advice, tuple(notes),
    )  # fmt: skip


def in_order(work: Callable[[Given], Made], tasks: Iterator[Given], processes: int | None, say: Say) -> Iterator[Made]:
    """`work` of each task in order, by several processes where there are many tasks (each of about CHUNK rows)."""
    enough = FEW_ROWS // CHUNK
    first = list(islice(tasks, enough))
    count = processes or min(8, os.cpu_count() or 1)
    if count == 1 or (processes is None and len(first) < enough):
        yield from map(work, first)
        yield from map(work, tasks)
        return
    started = told = time.monotonic()
    done = 0
    with ProcessPoolExecutor(count) as pool:
        waiting: deque[Future[Made]] = deque()
        for task in _chain(first, tasks):
            waiting.append(pool.submit(work, task))
            if len(waiting) > 2 * count:
                yield waiting.popleft().result()
                done += 1
                if time.monotonic() - told > 5:
                    told = time.monotonic()
                    say(f"about {done * CHUNK:,} rows, {done * CHUNK / (told - started):,.0f} rows/s")
        yield from (each.result() for each in waiting)


def _chain(first: list[Given], rest: Iterator[Given]) -> Iterator[Given]:
    yield from first
    yield from rest


def _tasks(plan: Plan, shard: Shard) -> Iterator[Task]:
    """The chunks of rows that are the shard's; an error that ends a file is a chunk too."""
    count = len(plan.sources)
    for index, source in enumerate(plan.sources):
        if not shard.reads(index, count):
            continue
        make = partial(
            Task, part=source.part, file=index, format=source.format, threshold=plan.threshold, examples=plan.examples
        )
        rows = read(source.file, source.format)
        for chunk in numbers():
            found: list[Row | Problem] = []
            failed: tuple[Problem, ...] = ()
            try:
                found = list(islice(rows, CHUNK))
            except TutelageError as error:
                failed = error.problems
            if (found or failed) and shard.has(index, chunk, count):
                yield make(found, chunk=chunk, failed=failed)
            if failed or not found:
                break


def _look_at_files(profile: Profile, tally: Tally) -> None:
    """What a file as a whole shows: several formats, types that clash, system prompts here and there."""
    for file, formats in profile.formats.items():
        if len(formats) > 1:
            rarest = min(formats, key=lambda name: formats[name])
            detail = " and ".join(f"{name} ({count:,})" for name, count in formats.most_common())
            tally.add("mixed_formats", example(profile.format_at[file][rarest], detail=detail))
        if "unknown" in formats:
            keys = ", ".join(f"`{name}`" for name in profile.columns[file])
            at = profile.format_at[file]["unknown"]
            tally.add("unknown_format", example(at, detail=f"the columns are {keys}"), formats["unknown"])
        for name, column in profile.columns[file].items():
            _look_at_column(file, name, column.types, column.first, tally)
    if profile.with_system and profile.without_system:
        for at, prompt in profile.without_system_at:
            detail = f"{profile.with_system:,} of {profile.with_system + profile.without_system:,} rows have one"
            tally.add("inconsistent_system", example(at, prompt, detail))
        tally.counts["inconsistent_system"] = profile.without_system


def _look_at_column(file: str, name: str, types: Any, first: dict[str, At], tally: Tally) -> None:
    given = {kind: count for kind, count in types.items() if kind != "null"}
    if len(given) > 1:
        rarest = min(given, key=lambda kind: given[kind])
        detail = f"`{name}` is " + ", ".join(f"{kind} in {count:,} rows" for kind, count in given.items())
        tally.add("type_clash", example(At(file, first[rarest].row), detail=detail), given[rarest])
