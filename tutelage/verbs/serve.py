"""The verb `serve`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from tutelage.engine.precision import choose_precision, device_name
from tutelage.errors import UsageError
from tutelage.export.gguf_file import GgufFile
from tutelage.serve.limits import Limits
from tutelage.serve.opening import open_models
from tutelage.serve.running import listen, run, settle
from tutelage.serve.server import Model, Server

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def in_passing(work: Callable[[], dict[str, Model]]) -> dict[str, Model]:
    """What `work` returns, from a thread that ends with it.

    libgomp keeps helper threads for each thread that has ever computed. Where they are more than the cores, all of them go
    to sleep between two products: the engine's thread then decodes at half its rate (51 instead of 98 tokens/s on two cores).
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def serve(
    models: tuple[str, ...],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    allow_host: tuple[str, ...] = (),
    engine: str = "torch",
    precision: str = "auto",
    base: bool = False,
    slots: int = 8,
    queue: int = 64,
    max_tokens: int = 4096,
    seconds: float = 300.0,
    keep: int = 8192,
    threads: int = 0,
    log_prompts: bool = False,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Serve the models until SIGINT or SIGTERM, and return what was served: `requests` by status, `tokens`."""
    say = say or (lambda line: None)
    known = {"torch": ("auto", *DTYPES), "llama.cpp": ("auto", *GgufFile.precisions)}
    if engine not in known:
        raise UsageError(f"engine must be torch or llama.cpp, and is {engine}", where="engine")
    if precision not in known[engine]:
        raise UsageError(f"{engine} has no precision `{precision}`", where="precision", fix=", ".join(known[engine]))
    for name, value in (("slots", slots), ("max_tokens", max_tokens), ("seconds", seconds)):
        if value < 1:
            raise UsageError(f"{name} must be 1 or more, and is {value:g}", where=name)
    address = settle(host, port, api_key, tuple(allow_host))
    listener = listen(address)  # before a model is read: a taken port is known at once
    try:
        limits = Limits(slots=slots, queue=queue, answer=max_tokens, seconds=seconds, keep=keep)
        given = (models,) if isinstance(models, str) else tuple(models)
        quantised = None
        if engine == "llama.cpp":
            quantised, precision = ("q8_0" if precision == "auto" else precision), "auto"

        def opened() -> dict[str, Model]:
            chosen, _ = choose_precision(precision, device_name())
            return open_models(
                given, dtype=DTYPES[chosen], precision=precision, limits=limits, base=base, say=say,
                threads=threads or None, llama_cpp=quantised,
            )  # fmt: skip

        served = in_passing(opened)
        server = Server(served, limits, say if log_prompts else None)
        run(server, address, listener, say)
    finally:
        listener.close()
    statuses: dict[str, int] = {}
    for (_, status), count in server.metrics.requests.items():
        statuses[str(status)] = statuses.get(str(status), 0) + count
    return {"models": sorted(served), "requests": statuses, "tokens": dict(server.metrics.tokens)}
