"""The prepared folder: what stands where, and how it is opened again with the proof that it is whole.

train.jsonl, validation.jsonl, test.jsonl   the rows, cleaned, each with `_at`: the file and row it came from; with more
                                            than one format there is a file for each (train.alpaca.jsonl), and for
                                            sources with a task of their own (train.classify.jsonl)
dropped.jsonl, changed.jsonl                every row that was left out or changed, and why
manifest.json                               counts, the rules, sha256 of every file, the fingerprint over the rows
report.html                                 what the check of the cleaned rows found
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tutelage.errors import ChangedRunError, DataError, MissingInputError
from tutelage.recipe import DataSpec, SourceSpec
from tutelage.runs import read_json

MANIFEST = "manifest.json"
DROPPED, CHANGED, REPORT = "dropped.jsonl", "changed.jsonl", "report.html"
PARTS = ("train", "validation", "test")
# Keys of a recipe's data part that decide what is in the folder; the folder's own place does not.
DECIDING = {"prepared"}


def settings(spec: DataSpec, seed: int) -> dict[str, Any]:
    """What of a recipe decides the content of the folder."""
    return {**spec.model_dump(mode="json", exclude=DECIDING), "seed": seed, "rows": len(spec.rows)}


def sha256(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(spec: DataSpec, *, seed: int) -> DataSpec:
    """`spec` with the files of its prepared folder in place of its sources; `spec` itself if it names none.

    A folder that is missing, damaged, or was made by other settings is an error that says what to run.
    """
    if spec.prepared is None:
        _refuse_unprepared(spec)
        return spec
    folder = Path(spec.prepared)
    if not (folder / MANIFEST).is_file():
        raise MissingInputError(
            "there is no prepared folder yet", where=f"data.prepared: {folder}", fix="tutelage data prepare RECIPE"
        )
    manifest = read_json(folder / MANIFEST)
    if (spec.train or spec.rows) and manifest["settings"] != json.loads(json.dumps(settings(spec, seed))):
        now = settings(spec, seed)
        keys = [key for key in now if manifest["settings"].get(key) != json.loads(json.dumps(now[key]))]
        raise ChangedRunError(
            "the prepared folder was made by other settings", where=f"data.prepared: {folder}",
            why=f"changed: {', '.join(keys)}", fix="tutelage data prepare RECIPE",
        )  # fmt: skip
    damaged = [name for name, digest in manifest["files"].items() if not _matches(folder / name, digest)]
    if damaged:
        raise DataError(
            "files of the prepared folder changed",
            where=str(folder),
            why=", ".join(damaged),
            fix="tutelage data prepare RECIPE",
        )
    own = manifest.get("ways", {})
    parts = {
        part: [
            SourceSpec.model_validate({"path": str(folder / name), "format": given, **own.get(name, {})})
            for name, given in manifest["parts"][part].items()
        ]
        for part in PARTS
    }
    return DataSpec(train=parts["train"], validation=parts["validation"] or None, test=parts["test"] or None)


def _matches(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _refuse_unprepared(spec: DataSpec) -> None:
    """Settings of `data prepare` without a prepared folder would have no effect: an error."""
    plain = DataSpec(train=spec.train, rows=spec.rows, validation=spec.validation)
    names = ("clean", "dedupe", "split", "leak", "broken", "decisions")
    given = [name for name in names if getattr(spec, name) != getattr(plain, name)]
    if isinstance(spec.test, float):
        given.append("test")
    if given:
        raise DataError(
            f"`data.{given[0]}` has an effect only on a prepared folder", where=f"data.{given[0]}",
            why=f"given are {', '.join(given)}", fix="add `prepared: data/prepared` and run: tutelage data prepare RECIPE",
        )  # fmt: skip
