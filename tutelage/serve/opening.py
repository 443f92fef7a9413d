"""The models that a server is started with: those that write go to one kind of engine, those with labels to another."""

from collections.abc import Callable, Mapping, Sequence

import torch

from tutelage.errors import UsageError
from tutelage.methods.opening import Located, locate
from tutelage.serve.exported import open_with_llama_cpp, open_with_vllm
from tutelage.serve.limits import Limits
from tutelage.serve.replaying import hold, unproven, write_down
from tutelage.serve.served import Say, Served, named, open_served
from tutelage.serve.served_task import open_task, task_of
from tutelage.serve.server import Model

Writers = Callable[[Mapping[str, Located]], dict[str, Served]]


def open_models(
    arguments: Sequence[str], *, dtype: torch.dtype, precision: str, limits: Limits, base: bool, say: Say,
    threads: int | None = None, engine: str = "torch", flags: tuple[str, ...] = (), check: bool = True,
) -> dict[str, Model]:  # fmt: skip
    """Load what the arguments name.

    `precision` is that of models with labels (auto: the run's) or, for llama.cpp, of the GGUF file; `dtype` that of models that
    write. llama.cpp and vLLM run models that write and no others; `flags` are more words for vLLM's command. With
    `check`, torch's engine proves once for each run that it serves the model that was trained.
    """
    places = {name: locate(place, say=say) for name, place in named(arguments).items()}
    tasks = {name: task for name, place in places.items() if (task := task_of(place)) is not None}
    writers = {name: place for name, place in places.items() if name not in tasks}
    if tasks and engine != "torch":
        raise UsageError(
            f"{engine} does not run {', '.join(tasks)}", where="engine", why="it runs models that write text",
            fix="--engine torch",
        )  # fmt: skip
    opened: dict[str, Writers] = {
        "torch": lambda found: open_served(found, dtype=dtype, limits=limits, base=base, say=say, threads=threads),
        "llama.cpp": lambda found: open_with_llama_cpp(
            found, precision=precision, limits=limits, say=say, threads=threads
        ),
        "vllm": lambda found: open_with_vllm(found, dtype=dtype, limits=limits, say=say, flags=flags),
    }
    models: dict[str, Model] = {
        name: open_task(name, places[name], task, precision=precision, limits=limits, threads=threads, say=say)
        for name, task in tasks.items()
    }
    if writers:
        asked = unproven(writers, dtype) if check and engine == "torch" else {}
        expected = {name: write_down(place, dtype, say) for name, place in asked.items()}
        written = opened[engine](writers)
        hold(written, expected, dtype, say)
        models |= written
    return models
