"""The verb `serve`."""

import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import torch

from tutelage.engine.precision import choose_precision, device_name
from tutelage.errors import UsageError
from tutelage.export.gguf_file import GgufFile
from tutelage.serve.limits import Limits
from tutelage.serve.opening import open_models
from tutelage.serve.running import listen, run, settle
from tutelage.serve.server import Model, Server
from tutelage.serve.vllm_engine import VllmEngine

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
    skip_parity: bool = False,
    slots: int = 8,
    queue: int = 64,
    max_tokens: int = 4096,
    seconds: float = 300.0,
    keep: int = 8192,
    threads: int = 0,
    log_prompts: bool = False,
    vllm_flags: str = "",
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Serve the models until SIGINT or SIGTERM, and return what was served: `requests` by status, `tokens`."""
    say = say or (lambda line: None)
    known = {"torch": ("auto", *DTYPES), "llama.cpp": ("auto", *GgufFile.precisions), "vllm": ("auto", *DTYPES)}
    if engine not in known:
        raise UsageError(f"engine must be {', '.join(list(known)[:-1])} or vllm, and is {engine}", where="engine")
    if precision not in known[engine]:
        raise UsageError(f"{engine} has no precision `{precision}`", where="precision", fix=", ".join(known[engine]))
    try:
        flags = tuple(shlex.split(vllm_flags))
    except ValueError as error:
        raise UsageError("these flags cannot be read", where="vllm_flags", why=str(error)) from error
    if flags and engine != "vllm":
        raise UsageError("these flags are for vLLM", where="vllm_flags", fix="--engine vllm")
    if base and engine != "torch":
        raise UsageError(
            f"{engine} does not serve the untouched model of a run beside it", where="base",
            why="of a LoRA run vLLM serves it anyway, and llama.cpp has one model for each name", fix="--engine torch",
        )  # fmt: skip
    for name, value in (("slots", slots), ("max_tokens", max_tokens), ("seconds", seconds)):
        if value < 1:
            raise UsageError(f"{name} must be 1 or more, and is {value:g}", where=name)
    address = settle(host, port, api_key, tuple(allow_host))
    listener = listen(address)  # before a model is read: a taken port is known at once
    try:
        limits = Limits(slots=slots, queue=queue, answer=max_tokens, seconds=seconds, keep=keep)
        given = (models,) if isinstance(models, str) else tuple(models)
        stored = "q8_0" if engine == "llama.cpp" and precision == "auto" else precision

        def opened() -> dict[str, Model]:
            chosen, _ = choose_precision("auto" if engine == "llama.cpp" else precision, device_name())
            return open_models(
                given, dtype=DTYPES[chosen], precision=stored, limits=limits, base=base, say=say, threads=threads or None,
                engine=engine, flags=flags, check=not skip_parity,
            )  # fmt: skip

        served = in_passing(opened)
        server = Server(served, limits, say if log_prompts else None)
        with ExitStack() as programs:
            for each in server.engines:
                if isinstance(each, VllmEngine):
                    programs.callback(each.process.stop)
                    each.process.start(say)
            run(server, address, listener, say)
    finally:
        listener.close()
    statuses: dict[str, int] = {}
    for (_, status), count in server.metrics.requests.items():
        statuses[str(status)] = statuses.get(str(status), 0) + count
    return {"models": sorted(served), "requests": statuses, "tokens": dict(server.metrics.tokens)}
