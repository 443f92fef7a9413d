"""The verb `data merge`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tutelage.data import partials
from tutelage.data.shards import read_heads
from tutelage.errors import UsageError
from tutelage.verbs.data import checked, prepared

Say = Callable[[str], None]


def quiet(text: str) -> None:
    """Hear a line and do nothing with it."""


def data_merge(
    files: Sequence[str] | str,
    *,
    out: str | None = None,
    html: str | None = None,
    processes: int = 0,
    say: Say = quiet,
) -> dict[str, Any]:
    """Put the files of all shards together: what `data_check` or `data_prepare` returns, the same in every byte.

    `out` is the prepared folder in place of the recipe's; `html` is the page of a check.
    """
    paths = [files] if isinstance(files, str) else list(files)
    job = read_heads(paths)
    return MERGES[job["what"]](paths, job, out, html, processes or None, say)


def _check(
    paths: list[str], job: dict[str, Any], out: str | None, html: str | None, processes: int | None, say: Say
) -> dict[str, Any]:
    if out is not None:
        raise UsageError("--out is for the shards of `data prepare`", why="these are a check's", fix="leave it out")
    return checked(partials.merge_check(paths, job), html, {})


def _prepare(
    paths: list[str], job: dict[str, Any], out: str | None, html: str | None, processes: int | None, say: Say
) -> dict[str, Any]:
    if html is not None:
        raise UsageError("--html is for the shards of `data check`", why="these are a prepare's", fix="leave it out")
    folder = Path(out or job["out"])
    spec, manifest = partials.merge_prepare(paths, job, folder)
    return prepared(folder, manifest, spec, processes, say)


MERGES: dict[str, Callable[..., dict[str, Any]]] = {partials.CHECK: _check, partials.PREPARE: _prepare}
