"""Check and prepare in shards: each shard's rows on any machine, then all their files to what the single run makes.

What a row shows by itself is worked out in the shards. What only all rows together show (repeats, leaks, splits) is
worked out when they are merged, by the same code as in the single run.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tutelage import __version__
from tutelage.data.assemble import put_together
from tutelage.data.firstpass import Say, files_of, first_passes, pack_done, unpack_done
from tutelage.data.quality.check import Plan, Report, report_of, scans
from tutelage.data.quality.chunk import as_document, from_document
from tutelage.data.shards import Shard, pack, parse_shard, read_chunks, write_shard
from tutelage.errors import UsageError
from tutelage.recipe import DataSpec
from tutelage.runs import create

PLAN = TypeAdapter(Plan)
CHECK, PREPARE = "check", "prepare"


@dataclass(frozen=True, slots=True)
class Asked:
    """Which shard to work on, and the file its result goes to."""

    shard: Shard
    file: Path


def asked(shard: str | None, partial: str | None) -> Asked | None:
    """What the options `shard` and `partial` ask for; both or neither must be given."""
    if shard is None and partial is None:
        return None
    if shard is None or partial is None:
        raise UsageError("--shard and --partial go together", fix="--shard 2/8 --partial part-2.shard")
    return Asked(parse_shard(shard), Path(partial))


def write_check(one: Asked, plan: Plan, processes: int | None, say: Say) -> dict[str, Any]:
    """Look at the rows of a shard."""
    job = _job(CHECK, [source.file for source in plan.sources], plan=PLAN.dump_python(plan, mode="json"))
    chunks = ((scan.place, pack(*as_document(scan))) for scan in scans(plan, processes, say, one.shard))
    return _written(one, job, chunks)


def write_prepare(one: Asked, spec: DataSpec, seed: int, out: Path, processes: int | None, say: Say) -> dict[str, Any]:
    """Clean and look at the rows of a shard."""
    files = [*files_of(spec), *([spec.decisions] if spec.decisions else [])]
    job = _job(PREPARE, files, spec=spec.model_dump(mode="json"), seed=seed, out=str(out))
    done = first_passes(spec, processes, say, one.shard)
    return _written(one, job, ((each.scan.place, pack(*pack_done(each))) for each in done))


def merge_check(paths: Sequence[str], job: dict[str, Any]) -> Report:
    """The report that the single check gives."""
    return report_of(PLAN.validate_python(job["plan"]), (from_document(*chunk) for chunk in read_chunks(paths)))


def merge_prepare(paths: Sequence[str], job: dict[str, Any], out: Path) -> tuple[DataSpec, dict[str, Any]]:
    """Write the folder that the single run writes; returns the settings and the manifest."""
    spec = DataSpec.model_validate(job["spec"])
    return spec, put_together(spec, (unpack_done(*chunk) for chunk in read_chunks(paths)), out, seed=job["seed"])


def _job(what: str, files: Sequence[str], **settings: Any) -> dict[str, Any]:
    """What all shards must have been asked. The files' sizes tell data that is not the same on every machine."""
    sizes = {file: os.path.getsize(file) for file in files if os.path.isfile(file)}
    return {"what": what, "version": __version__, "sizes": sizes, **settings}


def _written(one: Asked, job: dict[str, Any], chunks: Iterable[tuple[tuple[int, int], bytes]]) -> dict[str, Any]:
    create(one.file.parent)
    count = write_shard(one.file, job, one.shard, chunks)
    merge = "tutelage data merge FILE FILE ... with those of all shards"
    return {"shard": str(one.shard), "partial": one.file, "chunks": count, "next": merge}
