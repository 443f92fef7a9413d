"""The exception tree. Every error is one or more sentences with a place, a reason and a fix.

TutelageError            70  (never raised itself)
├── UsageError            2  the command line cannot be understood
├── RecipeError          78  the recipe has unknown keys, wrong values or keys that exclude each other
├── DataError            65  rows or files that cannot be trained on
├── ModelError           65  a model folder or file that cannot be read safely
├── MissingInputError    66  a file, folder, run or optional package that is not there
├── HubError             69  neither a model hub nor a package mirror answers
├── OutputError          73  the run folder cannot be written
├── OutOfMemoryError     75  even the smallest micro-batch does not fit
├── CheckFailedError      1  a gate said no: the token contract, a non-finite loss, a self-test
├── ChangedRunError       1  a run folder belongs to another recipe, data set or plan
└── InterruptedRunError 130  stopped by the user after a complete save
"""

import importlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import ClassVar

MAX_PROBLEMS = 20  # more than a screen of problems helps nobody; the rest is counted


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `where` is `file:row` or a recipe key, `fix` is something to do or to paste."""

    what: str
    where: str = ""
    why: str = ""
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.why:
            text += f"\n  why: {self.why}"
        if self.fix:
            text += f"\n  fix: {self.fix}"
        return text


class TutelageError(Exception):
    """Any error that this package raises for its user; `problems` is never empty."""

    exit_code: ClassVar[int] = 70

    def __init__(
        self, what: str | Iterable[Problem], *, where: str = "", why: str = "", fix: str = "", total: int | None = None
    ) -> None:
        problems = [Problem(what, where, why, fix)] if isinstance(what, str) else list(what)
        self.problems: tuple[Problem, ...] = tuple(problems[:MAX_PROBLEMS])
        self.total = max(len(problems), total or 0)
        super().__init__(str(self))

    def __str__(self) -> str:
        text = "\n".join(str(problem) for problem in self.problems)
        if self.total > len(self.problems):
            text += f"\n... and {self.total - len(self.problems)} more"
        return text

    def as_json(self) -> dict[str, object]:
        """The error as the JSON document that `--json` prints."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "problems": [asdict(problem) for problem in self.problems],
            "total": self.total,
        }


class UsageError(TutelageError):
    """The command line cannot be understood."""

    exit_code = 2


class RecipeError(TutelageError):
    """The recipe has unknown keys, wrong values or keys that exclude each other."""

    exit_code = 78


class DataError(TutelageError):
    """Rows or files that cannot be trained on."""

    exit_code = 65


class ModelError(TutelageError):
    """A model folder or file that cannot be read, or not safely."""

    exit_code = 65


class MissingInputError(TutelageError):
    """A file, folder, run or optional package that is not there."""

    exit_code = 66


class HubError(TutelageError):
    """Neither a model hub nor a package mirror answers."""

    exit_code = 69


class OutputError(TutelageError):
    """The run folder cannot be written."""

    exit_code = 73


class OutOfMemoryError(TutelageError):
    """Even the smallest micro-batch does not fit into memory."""

    exit_code = 75


class CheckFailedError(TutelageError):
    """A gate said no: the token contract, a non-finite loss, a self-test."""

    exit_code = 1


class ChangedRunError(TutelageError):
    """A run folder belongs to another recipe, data set or execution plan."""

    exit_code = 1


class InterruptedRunError(TutelageError):
    """Stopped by the user after a complete save."""

    exit_code = 130


# What torch, its allocator, oneDNN, the C++ library and the system say when memory is what is missing.
MEMORY_TEXTS = (
    "can't allocate memory", "bad_alloc", "could not create a primitive", "could not create a memory",
    "could not execute a primitive", "out of memory", "Cannot allocate memory", "not enough memory", "unable to mmap",
    "can't start new thread", "Resource temporarily unavailable",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that Python, torch, the allocator or the system ran out of memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(text in str(error) for text in MEMORY_TEXTS)


def need(module: str, *, extra: str) -> ModuleType:
    """The optional third-party `module`, or an error with the exact line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingInputError(
            f"the package `{module}` is not installed", why=str(error), fix=f"pip install 'tutelage[{extra}]'"
        ) from error
