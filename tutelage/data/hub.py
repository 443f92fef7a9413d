"""Data files from a model hub: Parquet and JSON of one split, kept on this machine. Nothing of a repository is run."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from tutelage.data.datasets import DatasetRef, parse_dataset
from tutelage.data.packed import suffix_of
from tutelage.data.types import At
from tutelage.errors import DataError, HubError, Problem
from tutelage.models.cache import cache_root
from tutelage.models.hub import TIMEOUT, unanswered
from tutelage.runs import create

Rows = Iterator[tuple[At, dict[str, object]] | Problem]
KINDS = (".parquet", ".jsonl", ".json", ".csv")  # the first kind that a split has is read
SPLITS = {"train", "test", "validation", "valid", "val", "dev"}
ABOUT = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"}  # no rows
SAFE = re.compile(r"[\w.=-]+(?:/[\w.=-]+)*")


def hub_files(path: str, read: Callable[[str], Rows]) -> list[str]:
    """The files on this machine that hold what `path` names; they are fetched once. A slice of a split is one file."""
    ref = parse_dataset(path)
    revision = (ref.revision or "main").replace("/", "--")
    root = cache_root() / "datasets" / f"{ref.repo.replace('/', '--')}@{revision}"
    folder = root / "--".join(filter(None, [*ref.folder.split("/"), ref.split]))
    if not folder.is_dir():
        _fetch(ref, folder, path)
    files = sorted(str(file) for file in folder.rglob("*") if file.is_file())
    if ref.first is None and ref.last is None:
        return files
    return [_sliced(ref, files, folder, read)]


def _fetch(ref: DatasetRef, folder: Path, path: str) -> None:
    """Fill `folder`, which appears as a whole, with the files of a split."""
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        info = HfApi(endpoint=endpoint).dataset_info(ref.repo, revision=ref.revision, timeout=TIMEOUT)
    except Exception as error:  # the client's own errors have no common base
        raise _unanswered(path, error) from error
    wanted = files_of_split([file.rfilename for file in info.siblings or ()], ref, path)
    create(folder.parent)
    made = folder.parent / f".{uuid.uuid4().hex}"
    try:
        snapshot_download(
            ref.repo, repo_type="dataset", revision=info.sha, local_dir=made, endpoint=endpoint, etag_timeout=TIMEOUT,
            max_workers=4, allow_patterns=wanted,
        )  # fmt: skip
        shutil.rmtree(made / ".cache", ignore_errors=True)
        os.replace(made, folder)
    except Exception as error:
        raise _unanswered(path, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def files_of_split(names: list[str], ref: DatasetRef, path: str) -> list[str]:
    """Those of a repository's files that hold a split: by their names, or all of them where no name tells a split."""
    data = [name for name in names if suffix_of(name) in KINDS and SAFE.fullmatch(name) and ".." not in name]
    data = [name for name in data if name.rpartition("/")[2] not in ABOUT]
    data = [name for name in data if not ref.folder or name.startswith(ref.folder + "/")]
    if not data:
        raise DataError(
            "the data set has no files that are read", where=path, why="read are Parquet, JSON Lines, JSON and CSV files; "
            "a data set that is a script is not run", fix="name the hub's own Parquet copy: @refs/convert/parquet",
        )  # fmt: skip
    found = [name for name in data if ref.split in _words(name)]
    if not found and ref.split == "train" and not any(SPLITS & _words(name) for name in data):
        found = data
    kind = next((kind for kind in KINDS if any(suffix_of(name) == kind for name in found)), "")
    found = [name for name in found if suffix_of(name) == kind]
    if not found:
        raise DataError(
            f"the data set has no split `{ref.split}`", where=path, why=f"its files are {', '.join(sorted(data)[:10])}",
            fix="name another split after the colon",
        )  # fmt: skip
    folders = {name.rpartition("/")[0] for name in found}
    if len({re.sub(rf"/?{re.escape(ref.split)}$", "", each) for each in folders}) > 1:
        raise DataError(
            "the split stands in several folders", where=path, why=f"they are {', '.join(sorted(folders)[:10])}",
            fix="name one: hub:owner/name/folder:split",
        )  # fmt: skip
    return found


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def _sliced(ref: DatasetRef, files: list[str], folder: Path, read: Callable[[str], Rows]) -> str:
    """A slice of the rows of `files` as one file beside them."""
    ends = [f"{bound.number}{'p' if bound.percent else ''}" if bound else "" for bound in (ref.first, ref.last)]
    target = folder.with_name(f"{folder.name}-from-{ends[0] or '0'}-to-{ends[1] or 'end'}.jsonl")
    if target.is_file():
        return str(target)
    rows = sum(1 for file in files for _ in read(file))
    first, last = ref.first.row(rows) if ref.first else 0, ref.last.row(rows) if ref.last else rows
    if last <= first:
        raise DataError("the slice has no rows", where=f"{ref.repo}:{ref.split}", why=f"the split has {rows:,}")
    made = target.with_name(f".{uuid.uuid4().hex}")
    with open(made, "w", encoding="utf-8") as out:
        for item in islice((item for file in files for item in read(file)), first, last):
            if isinstance(item, Problem):
                made.unlink()
                raise DataError([item])
            out.write(json.dumps(item[1], ensure_ascii=False) + "\n")
    os.replace(made, target)
    return str(target)


def _unanswered(where: str, error: Exception) -> HubError:
    return unanswered(where, error, what="data set", hub="hub", instead="name files on this machine")
