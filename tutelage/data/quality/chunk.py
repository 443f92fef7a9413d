"""The scan of a chunk of rows as a JSON document and arrays, and back: what a shard's file holds of it."""

from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter

from tutelage.data.quality.findings import Tally
from tutelage.data.quality.near import Sketches
from tutelage.data.quality.profile import Profile
from tutelage.data.quality.scan import Scan
from tutelage.data.quality.store import Facts
from tutelage.data.shards import Arrays

TALLY, PROFILE = TypeAdapter(Tally), TypeAdapter(Profile)


def as_document(scan: Scan) -> tuple[dict[str, Any], Arrays]:
    """A scan as JSON values and arrays; nothing that a report is made of is lost."""
    scan.profile.trim()
    document = {
        "tally": TALLY.dump_python(scan.tally, mode="json"),
        "profile": PROFILE.dump_python(scan.profile, mode="json"),
        "place": scan.place,
    }
    columns = {f"facts_{each.name}": getattr(scan.facts, each.name) for each in fields(Facts)}
    return document, columns | {f"sketches_{each.name}": getattr(scan.sketches, each.name) for each in fields(Sketches)}


def from_document(document: dict[str, Any], arrays: Arrays) -> Scan:
    """The scan that `as_document` wrote down."""
    file, chunk = document["place"]
    return Scan(
        TALLY.validate_python(document["tally"]),
        PROFILE.validate_python(document["profile"]),
        Facts(**{each.name: arrays[f"facts_{each.name}"] for each in fields(Facts)}),
        Sketches(**{each.name: arrays[f"sketches_{each.name}"] for each in fields(Sketches)}),
        (int(file), int(chunk)),
    )
