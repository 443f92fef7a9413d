"""The models that a server is started with: those that write go to one kind of engine, those with labels to another."""

from collections.abc import Sequence

import torch

from tutelage.errors import UsageError
from tutelage.methods.opening import Located, locate
from tutelage.serve.limits import Limits
from tutelage.serve.served import Say, Served, named, open_served, open_with_llama_cpp
from tutelage.serve.served_task import open_task, task_of
from tutelage.serve.server import Model


def open_models(
    arguments: Sequence[str], *, dtype: torch.dtype, precision: str, limits: Limits, base: bool, say: Say,
    threads: int | None = None, llama_cpp: str | None = None,
) -> dict[str, Model]:  # fmt: skip
    """Load what the arguments name. `dtype` is that of models that write, `precision` that of the others (auto: the run's).

    With `llama_cpp`, a precision of GGUF, models that write are run by llama.cpp; others it cannot run.
    """
    places = {name: locate(place, say=say) for name, place in named(arguments).items()}
    tasks = {name: task for name, place in places.items() if (task := task_of(place)) is not None}
    writers = {name: place for name, place in places.items() if name not in tasks}
    if tasks and llama_cpp is not None:
        raise UsageError(
            f"llama.cpp does not run {', '.join(tasks)}", where="engine", why="it runs models that write text",
            fix="--engine torch",
        )  # fmt: skip
    models: dict[str, Model] = {
        name: open_task(name, places[name], task, precision=precision, limits=limits, threads=threads, say=say)
        for name, task in tasks.items()
    }
    if writers:
        models |= _writers(writers, dtype, limits, base, say, threads, llama_cpp)
    return models


def _writers(
    places: dict[str, Located], dtype: torch.dtype, limits: Limits, base: bool, say: Say, threads: int | None,
    llama_cpp: str | None,
) -> dict[str, Served]:  # fmt: skip
    if llama_cpp is not None:
        return open_with_llama_cpp(places, precision=llama_cpp, limits=limits, say=say, threads=threads)
    return open_served(places, dtype=dtype, limits=limits, base=base, say=say, threads=threads)
