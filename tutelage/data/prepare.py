"""From the data part of a recipe to the prepared data set: read, detect, parse, check, split, fingerprint."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from tutelage.data.checks import find_drop, find_problems
from tutelage.data.folder import opened
from tutelage.data.formats import FORMATS
from tutelage.data.formats.detect import check_accepted, detect
from tutelage.data.sources import MEMORY, Row, files, read, read_memory, renamed
from tutelage.data.split import input_key, normalised, split
from tutelage.data.types import Conversation, Dropped, Prepared
from tutelage.data.types import Row as DataRow
from tutelage.errors import MAX_PROBLEMS, DataError, MissingInputError, Problem, RecipeError, TutelageError
from tutelage.recipe import DataSpec, SourceSpec
from tutelage.registry import suggestion

Part = tuple[DataRow, ...]
Accepts = Callable[[SourceSpec | None], tuple[type, ...]]


def only_chat(source: SourceSpec | None) -> tuple[type, ...]:
    """Conversations, from every source."""
    return (Conversation,)


class _Findings:
    """What reading finds beside rows: the first problems and their number, drops, formats."""

    def __init__(self, accepts: Accepts) -> None:
        self.accepts = accepts
        self.problems: list[Problem] = []
        self.total = 0
        self.dropped: list[Dropped] = []
        self.formats: dict[str, str] = {}

    def add(self, problem: Problem) -> None:
        self.total += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

    def add_all(self, error: TutelageError) -> None:
        for problem in error.problems:
            self.add(problem)
        self.total += error.total - len(error.problems)


def prepare(spec: DataSpec, *, seed: int, accepts: Accepts = only_chat) -> Prepared:
    """The data set that `spec` names, in rows of the types that the task of each source `accepts`.

    Every problem of every file is raised at once; every row that is not used is in `dropped`.
    """
    spec = opened(spec, seed=seed)
    held_out = spec.validation if isinstance(spec.validation, list) else []
    sources = {"train": spec.train, "validation": held_out, "test": spec.test if isinstance(spec.test, list) else []}
    _check_formats(sources)
    found = _Findings(accepts)
    paths = _resolved(sources, found)
    parts: dict[str, Part] = {}
    drops: dict[str, list[Dropped]] = {}
    for name in sources:
        before = len(found.dropped)
        parts[name] = _read_rows(read_memory(spec.rows), MEMORY, None, found) if name == "train" and spec.rows else ()
        parts[name] += tuple(
            row
            for file, source in paths[name]
            for row in _read_rows(
                renamed(read(file, source.format, source.target), source.columns), file, source, found
            )
        )
        drops[name] = found.dropped[before:]
    if found.total:
        raise DataError(found.problems, total=found.total)
    _require_rows({name: part for name, part in parts.items() if name == "train" or paths[name]}, drops)
    train, validation, test = parts["train"], parts["validation"], parts["test"]
    if isinstance(spec.validation, float):
        train, validation = split(train, spec.validation, seed=seed)
    return Prepared(
        train=train,
        validation=validation,
        test=test,
        dropped=tuple(found.dropped),
        formats=found.formats,
        sources={file: source for part in paths.values() for file, source in part},
        fingerprint=fingerprint(train, validation, test),
        overlap={name: _overlap(parts[name], train) for name in ("validation", "test") if paths[name]},
    )


def fingerprint(*parts: Part) -> str:
    """A sha256 over the content of the parts' rows (roles, texts, weights, calls, tools, labels) in order; places do not count."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"part of {len(part)}\n".encode())
        for row in part:
            digest.update(json.dumps(_content(row), ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _content(row: DataRow) -> object:
    if not isinstance(row, Conversation):
        return row.content()
    turns = [[m.role, m.content, m.weight, m.name, m.tool_calls, m.tool_call_id] for m in row.messages]
    return [turns, row.tools]


def _check_formats(sources: dict[str, list[SourceSpec]]) -> None:
    problems = [
        Problem(
            f"unknown format `{source.format}`", f"data.{name}[{index}].format", fix=suggestion(source.format, known)
        )
        for known in [list(FORMATS)]
        for name, part in sources.items()
        for index, source in enumerate(part)
        if source.format is not None and source.format not in known
    ]
    if problems:
        raise RecipeError(problems)


def _resolved(sources: dict[str, list[SourceSpec]], found: _Findings) -> dict[str, list[tuple[str, SourceSpec]]]:
    """Each part's files with their sources. Missing paths of all parts are raised together."""
    paths: dict[str, list[tuple[str, SourceSpec]]] = {name: [] for name in sources}
    missing: list[Problem] = []
    for name, part in sources.items():
        for source in part:
            try:
                found_files = [source.path] if source.target else files(source.path, source.format)
                paths[name] += [(file, source) for file in found_files]
            except MissingInputError as error:
                missing += error.problems
            except DataError as error:
                found.add_all(error)
    if missing:
        raise MissingInputError(missing)
    return paths


def _read_rows(items: Iterable[Row | Problem], file: str, source: SourceSpec | None, found: _Findings) -> Part:
    rows: list[Row] = []
    for item in items:
        if isinstance(item, Problem):
            found.add(item)
        else:
            rows.append(item)
    if not rows:  # the reader has said why
        return ()
    try:
        name = (source.format if source else None) or detect(rows).name
        check_accepted(FORMATS.get(name), found.accepts(source), rows[0][0])
    except DataError as error:
        found.add_all(error)
        return ()
    found.formats[file] = name
    return tuple(_parsed(rows, name, found))


def _parsed(rows: list[Row], name: str, found: _Findings) -> Iterator[DataRow]:
    parse = FORMATS.get(name).parse
    rows.reverse()
    while rows:  # each row is let go when it is parsed: all of them twice would be the peak of the whole run's memory
        at, row = rows.pop()
        try:
            conversation = parse(row, at)
        except DataError as error:
            found.add_all(error)
            continue
        for problem in find_problems(conversation):
            found.add(problem)
        drop = find_drop(conversation)
        if drop:
            found.dropped.append(drop)
        else:
            yield conversation


def _require_rows(parts: dict[str, Part], drops: dict[str, list[Dropped]]) -> None:
    problems = []
    for name in [name for name, part in parts.items() if not part]:
        reasons = Counter(drop.reason for drop in drops[name])
        why = "dropped were " + ", ".join(f"{count} with {reason}" for reason, count in sorted(reasons.items()))
        first = drops[name][0]  # a part without rows and without drops has had a problem before
        what = f"no {'training' if name == 'train' else name} rows are left"
        fix = f"give each row a prompt and an answer; here {first.detail}"
        problems.append(Problem(what, str(first.at), why, fix))
    if problems:
        raise DataError(problems)


def _overlap(part: Part, train: Sequence[DataRow]) -> int:
    known = {_content_key(conversation) for conversation in train}
    return sum(_content_key(conversation) in known for conversation in part)


def _content_key(row: DataRow) -> str:
    key = normalised(row.messages) if isinstance(row, Conversation) else input_key(row)
    return json.dumps(key, sort_keys=True)
