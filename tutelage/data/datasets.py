"""Data sets of a model hub: how a recipe names them, and the well-known ones under short names."""

import os
import re
from dataclasses import dataclass

from tutelage.errors import DataError

HUB = "hub:"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A well-known set: its hub id (with a revision where the default one is not meant), licence, and what it is."""

    hub: str
    licence: str
    about: str


DATASETS = {
    "alpaca-cleaned": Dataset(
        "yahma/alpaca-cleaned", "CC-BY-4.0 (made with OpenAI's models, whose terms may bind you)",
        "52,000 instructions with answers, the faults of Stanford's Alpaca repaired",
    ),
    "dolly-15k": Dataset(
        "databricks/databricks-dolly-15k", "CC-BY-SA-3.0", "15,000 instructions with answers, written by people"
    ),
    "gpt4all-j": Dataset(
        "nomic-ai/gpt4all-j-prompt-generations", "Apache-2.0 (made with OpenAI's models, whose terms may bind you)",
        "800,000 prompts with answers of GPT-3.5",
    ),
}  # fmt: skip

_REF = re.compile(
    r"(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})(?P<folder>(?:/[\w.-]+)*)(?:@(?P<revision>[\w./-]{1,200}))?"
    r"(?::(?P<split>\w+)(?:\[(?P<slice>[^\[\]]*)\])?)?"
)
_BOUND = re.compile(r"(?P<number>\d{1,12})(?P<percent>%?)")


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a slice begins or ends: a row, or a percentage of all rows."""

    number: int
    percent: bool

    def row(self, rows: int) -> int:
        """Its row among `rows` many; percentages are rounded to the nearest row, as `datasets` does."""
        return min(rows, round(rows * self.number / 100) if self.percent else self.number)


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """A split of a hub's data set; `folder` is a part of the repository, `first` and `last` cut a slice."""

    repo: str
    folder: str = ""
    revision: str | None = None
    split: str = "train"
    first: Bound | None = None
    last: Bound | None = None


def names_dataset(path: str) -> bool:
    """Is `path` a hub id or a well-known set's name? A file or folder of that name goes before."""
    return path.startswith(HUB) or (_known(path) and not os.path.exists(path))


def parse_dataset(path: str) -> DatasetRef:
    """The data set of `hub:owner/name[/folder][@revision][:split[[slice]]]`, or of a well-known name in place of its id."""
    name, rest = re.fullmatch(r"([^@:]*)(.*)", path, re.DOTALL).groups() if _known(path) else ("", "")  # type: ignore[union-attr]
    match = _REF.fullmatch(DATASETS[name].hub + rest if name else path.removeprefix(HUB))
    if not match or ".." in path:
        raise DataError(
            "this names no data set of a hub", where=path, fix="hub:owner/name@revision:train[:10%], or dolly-15k:train"
        )
    first, last = _slice(match["slice"], path)
    return DatasetRef(
        match["repo"], match["folder"].strip("/"), match["revision"], match["split"] or "train", first, last
    )


def _known(path: str) -> bool:
    return re.split("[@:]", path, maxsplit=1)[0] in DATASETS


def _slice(text: str | None, where: str) -> tuple[Bound | None, Bound | None]:
    if text is None:
        return None, None
    first, colon, last = (part.strip() for part in text.partition(":"))
    bounds = [_BOUND.fullmatch(part) for part in (first, last)]
    wrong = not colon or any(part and not bound for part, bound in zip((first, last), bounds))
    found = [Bound(int(bound["number"]), bool(bound["percent"])) if bound else None for bound in bounds]
    if wrong or any(bound and bound.percent and bound.number > 100 for bound in found):
        raise DataError("this slice cannot be read", where=where, fix="[:10%], [10%:20%], [:1000] or [1000:]")
    return found[0], found[1]
