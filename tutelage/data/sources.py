"""Rows of files: JSON Lines, JSON, CSV and folders of them, each with its place, or the problem that stands there."""

import glob
import os
from collections.abc import Callable, Iterator

from tutelage.data.datasets import names_dataset
from tutelage.data.delimited import read_delimited
from tutelage.data.jsonlist import items as list_items
from tutelage.data.jsonvalue import FaultError, check, parse, shown, type_name
from tutelage.data.lines import UTF8_BOM, read_lines, read_whole, unreadable
from tutelage.data.nested import unfolded
from tutelage.data.packed import open_bytes, suffix_of
from tutelage.data.parquet import read_parquet
from tutelage.data.tables import read_table
from tutelage.data.texts import flatten_squad, read_conll, read_paragraphs, read_parallel
from tutelage.data.types import At
from tutelage.errors import DataError, MissingInputError, Problem, need
from tutelage.registry import suggestion

Row = tuple[At, dict[str, object]]
MEMORY = "<memory>"
GLOB = frozenset("*?[")
MOST_BROKEN = 10_000  # rows; a file with more, most of its rows, is something else

# Names under which a single row keeps its turns; a .json file with such a list is one row, not a list of rows.
TURN_LISTS = ("messages", "conversations", "prompt", "completion", "history", "tools")

NOT_YET = "it is not read yet; write the rows as JSON Lines first"
UNSAFE = "pickled and binary arrays are never read: loading them can run code"
REFUSED = {
    **dict.fromkeys((".arrow", ".feather", ".xlsx", ".xls", ".db", ".sqlite", ".yaml", ".yml"), NOT_YET),
    **dict.fromkeys((".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"), "packed files are not read yet"),
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz", ".pt", ".pth", ".bin", ".joblib"), UNSAFE),
    ".conllu": "it has ten columns and no entities; write the word, a tab and its tag, and name it .conll",
}


def files(path: str, given: str | None = None) -> list[str]:
    """The data files that `path` names: itself, those in the folder and its subfolders, sorted, or those of a hub's set.

    In a folder, hidden files and other kinds (notes, licences) are passed over; data that cannot be read is an error. A
    file of a `given` text format (tagged, plain) may have any name.
    """
    if names_dataset(path):
        fetched: list[str] = need("tutelage.data.hub", extra="hub").hub_files(path, read)
        return fetched
    if GLOB.intersection(path) and not os.path.exists(path):
        return _matching(path)
    if "\0" in path or not os.path.exists(path):
        where = path if path.isprintable() and path else repr(path)
        raise MissingInputError("there is no such file or folder", where=where, fix=_near(path))
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise DataError("this is not a regular file", where=path, fix="name a file or a folder")
        problem = None if given in BY_FORMAT else _unreadable_kind(path)
        if problem:
            raise DataError([problem])
        return [path]
    found = _files_of_folder(path)
    problems = [problem for file in found if (problem := _unreadable_kind(file))]
    if problems:
        raise DataError(problems)
    if not found:
        raise DataError(
            "the folder has no data file", where=path, why=f"read are {_kinds()}", fix="name another folder"
        )
    return found


def read(file: str, given: str | None = None, target: str | None = None) -> Iterator[Row | Problem]:
    """The rows of one data file in order; where a row cannot be read, its problem.

    `target` is a second file whose lines belong to those of `file`; a text format that was `given` decides the reader
    where the file's name does not.
    """
    reader = BY_FORMAT.get(given or "") if suffix_of(file) in ("", ".txt") or suffix_of(file) not in READERS else None
    items = (
        read_parallel(file, target) if target else unfolded((reader or READERS.get(suffix_of(file), read_table))(file))
    )
    rows = broken = 0
    for item in items:
        rows += 1
        broken += isinstance(item, Problem)
        yield item
        if broken > MOST_BROKEN and broken * 2 > rows:
            why = f"{broken:,} of the first {rows:,} rows cannot be read"
            yield Problem("the rest of the file was not looked at", f"{file}:{rows}", why, "is it the right file?")
            return
    if not rows:
        why = "it is empty, or has only blank lines or a header"
        yield Problem("the file has no rows", f"{file}:1", why, "fill it, or leave it out of the recipe")


def renamed(items: Iterator[Row | Problem], columns: dict[str, str]) -> Iterator[Row | Problem]:
    """`items` with columns under other names: {new: old}. A row without the old name is a problem."""
    if not columns:
        yield from items
        return
    names = {old: new for new, old in columns.items()}
    for item in items:
        if isinstance(item, Problem):
            yield item
        elif lacking := [old for old in names if old not in item[1]]:
            keys = ", ".join(f"`{key}`" for key in item[1])
            yield Problem(
                f"the row has no column `{lacking[0]}`", str(item[0]), f"its columns are {keys}", "correct `columns`"
            )
        else:
            yield item[0], {names.get(key, key): value for key, value in item[1].items()}


def read_memory(rows: tuple[dict[str, object], ...]) -> Iterator[Row | Problem]:
    """Rows that were handed over in Python, held to the same rules as those of a file."""
    for number, row in enumerate(rows, 1):
        at = At(MEMORY, number)
        try:
            check(row)
        except FaultError as fault:
            yield Problem(fault.what, str(at), fault.why, fault.fix)
        else:
            yield _as_row(row, at)


def _read_jsonl(file: str) -> Iterator[Row | Problem]:
    first = True
    for line in read_lines(file):
        where = f"{file}:{line.number}"
        if line.problem:
            yield line.problem
        elif text := line.text.strip():
            if first and text.startswith("["):
                yield Problem("this is a JSON list, not JSON Lines", where, "a line is one object", "name it .json")
                return
            try:
                yield _as_row(parse(text), At(file, line.number))
            except FaultError as fault:
                yield Problem(fault.what, where, fault.why, fault.fix)
        first = first and not line.text.strip()


def _read_json(file: str) -> Iterator[Row | Problem]:
    if _begins_list(file):
        yield from _read_list(file)
        return
    whole = read_whole(file)
    if whole.problem:
        yield whole.problem
        return
    if not whole.text.strip():
        return
    try:
        items = flatten_squad(_list_of(parse(whole.text)))
    except FaultError as fault:
        fix = "this looks like JSON Lines: name it .jsonl" if _is_json_lines(whole.text) else fault.fix
        yield Problem(fault.what, f"{file}:{fault.line}", fault.why, fix)
        return
    for number, item in enumerate(items, 1):
        yield _as_row(item, At(file, number))


def _begins_list(file: str) -> bool:
    try:
        with open_bytes(file) as opened:
            return opened.read(256).removeprefix(UTF8_BOM).lstrip().startswith(b"[")
    except OSError as error:
        raise unreadable(file, error) from error


def _read_list(file: str) -> Iterator[Row | Problem]:
    number = 0
    try:
        with open_bytes(file) as opened:
            if opened.read(len(UTF8_BOM)) != UTF8_BOM:
                opened.seek(0)
            rows = (row for item in list_items(opened) for row in flatten_squad([item]))
            for number, item in enumerate(rows, 1):
                yield _as_row(item, At(file, number))
    except FaultError as fault:
        fix = "this looks like JSON Lines: name it .jsonl" if number == 1 and fault.line > 1 else fault.fix
        yield Problem(fault.what, f"{file}:{fault.line}", fault.why, fix)
    except OSError as error:
        yield Problem("the file cannot be read further", f"{file}:{number + 1}", error.strerror or str(error))


def _read_unnamed(file: str) -> Iterator[Row | Problem]:
    """A file whose name has no ending is what it looks like."""
    try:
        with open_bytes(file) as opened:
            start = opened.read(256).removeprefix(UTF8_BOM).lstrip()
    except OSError as error:
        raise unreadable(file, error) from error
    readers = {b"[": _read_json, b"{": _read_jsonl}
    return readers.get(start[:1], read_delimited)(file)


def _list_of(value: object) -> list[object]:
    if not isinstance(value, dict):
        raise FaultError(f"the file holds {type_name(value)}, not rows", fix="write a list of objects")
    lists = {key: item for key, item in value.items() if isinstance(item, list)}
    if len(lists) != 1:
        why = f"it has {len(lists)} lists: {', '.join(shown(key) for key in list(lists)[:10])}" if lists else ""
        raise FaultError("the file is one object without a single list of rows", why, "write a list of objects")
    ((key, items),) = lists.items()
    if key in TURN_LISTS:
        raise FaultError("the file is a single row, not a list of rows", f"its list is `{key}`", "put it into [ ]")
    return items


def _as_row(value: object, at: At) -> Row | Problem:
    if not isinstance(value, dict):
        return Problem(f"the row is {type_name(value)}, not an object", str(at), fix='write {"prompt": ..., ...}')
    if not value:
        return Problem("the row is an empty object", str(at), fix="fill or remove it")
    return at, value


def _is_json_lines(text: str) -> bool:
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and isinstance(parse(first), dict)
    except FaultError:
        return False


READERS: dict[str, Callable[[str], Iterator[Row | Problem]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": read_table,
    ".tsv": read_table,
    ".parquet": read_parquet,
    "": _read_unnamed,
    **dict.fromkeys((".conll", ".iob", ".iob2", ".bio"), read_conll),
    ".txt": read_paragraphs,
}
# Readers that a recipe can ask for by the format's name, whatever a file is called.
BY_FORMAT: dict[str, Callable[[str], Iterator[Row | Problem]]] = {"tagged": read_conll, "plain": read_paragraphs}


def _kinds() -> str:
    return ", ".join(sorted(filter(None, READERS))) + ", also packed as .gz"


def _unreadable_kind(file: str) -> Problem | None:
    suffix = suffix_of(file)
    if suffix in READERS:
        return None
    return Problem(f"`{suffix}` files are not read", file, REFUSED.get(suffix, ""), f"read are {_kinds()}")


def _matching(pattern: str) -> list[str]:
    found = sorted(file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file))
    if not found:
        raise MissingInputError("no file matches the pattern", where=pattern, fix="** stands for folders, * for names")
    problems = [problem for file in found if (problem := _unreadable_kind(file))]
    if problems:
        raise DataError(problems)
    return found


def _files_of_folder(folder: str) -> list[str]:
    found = []
    try:
        for parent, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            kinds = {*READERS, *REFUSED} - {".txt", ""}
            known = [name for name in names if suffix_of(name) in kinds]
            found += [os.path.join(parent, name) for name in known if not name.startswith(".")]
    except OSError as error:
        raise unreadable(folder, error) from error
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _near(path: str) -> str:
    folder = os.path.dirname(path) or "."
    if "\0" in path or not os.path.isdir(folder):
        return "check the path; it starts from the folder you are in"
    try:
        names = os.listdir(folder)
    except OSError:
        names = []
    found = suggestion(os.path.basename(path), names)
    return found if found.startswith("did you mean") else "check the path; it starts from the folder you are in"
