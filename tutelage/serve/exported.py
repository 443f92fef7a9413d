"""Models that another program runs: exported first, behind the parity gate, unless that was done before."""

import time
from collections.abc import Mapping
from pathlib import Path

import torch

from tutelage.errors import OutputError, UsageError
from tutelage.export.acceptance import broken, vllm_words
from tutelage.export.artifact import default_folder, export_model, read_artifact
from tutelage.export.gguf_file import FILE
from tutelage.methods.adapter_file import read_adapter
from tutelage.methods.opening import Located
from tutelage.serve.engine import Engine
from tutelage.serve.limits import Limits
from tutelage.serve.llama_cpp_runner import LlamaCppRunner
from tutelage.serve.served import Say, Served, base_name, free_name, is_plain_addition, template_of
from tutelage.serve.vllm_engine import VllmEngine
from tutelage.serve.vllm_process import VllmProcess

VLLM_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def open_with_llama_cpp(
    places: Mapping[str, Located], *, precision: str, limits: Limits, say: Say, threads: int | None = None
) -> dict[str, Served]:
    """The models as GGUF files of this precision, run by llama.cpp."""
    served = {}
    for name, located in places.items():
        folder = exported(name, located, "gguf", precision, say)
        runner = LlamaCppRunner(folder / FILE, slots=limits.slots, threads=threads)
        # one thread for torch, which only chooses tokens: its pool would take the cores that llama.cpp's threads spin on
        served[name] = Served(name, Engine(runner, limits, 1), None, template_of(located), int(time.time()))
    return served


def open_with_vllm(
    places: Mapping[str, Located], *, dtype: torch.dtype, limits: Limits, say: Say, flags: tuple[str, ...] = ()
) -> dict[str, Served]:
    """The models run by vLLM, which is not started yet: whole models as they lie there, LoRA adapters over one base as PEFT
    adapters. Other adapters, and those over a quantised base, are merged first.

    One vLLM runs one base, so the places must share theirs. `flags` are more words for its command.
    """
    adapters = {name: place for name, place in places.items() if _is_plain_adapter(place)}
    wholes = {name: place for name, place in places.items() if name not in adapters}
    bases = {place.model.resolve() for place in places.values()}
    if len(bases) > 1 or len(wholes) > 1 or (wholes and adapters and any(p.adapter for p in wholes.values())):
        raise UsageError(
            "vLLM runs one base model at a time", where="engine", fix="serve them by two servers, or with --engine torch",
            why=f"{', '.join(places)} are not LoRA adapters over one base",
        )  # fmt: skip
    folders = {name: exported(name, place, "peft", "fp32", say) for name, place in adapters.items()}
    if wholes:
        base, place = next(iter(wholes.items()))
        merged = "fp32" if dtype == torch.float32 else "bf16"
        folder = exported(base, place, "merged", merged, say) if place.adapter else place.model
    else:
        place = next(iter(adapters.values())).base
        base, folder = free_name(base_name(next(iter(adapters.values()))), places), place.model
    problems = [f"{where}: {rule}" for where, kind in [(folder, "merged"), *((f, "peft") for f in folders.values())]
                for rule in broken(kind, where)]  # fmt: skip
    if problems:
        raise UsageError("vLLM would refuse this", where="engine", why="; ".join(problems), fix="--engine torch")
    words = [
        *vllm_words(folder, base, folders), "--dtype", VLLM_DTYPES[dtype], "--max-num-seqs", str(limits.slots),
        "--enable-prompt-tokens-details", "--generation-config", "vllm", *flags,
    ]  # fmt: skip
    engine, now = VllmEngine(VllmProcess(words), base, limits), int(time.time())
    served = {name: Served(name, engine, name, template_of(each), now, base) for name, each in adapters.items()}
    return {base: Served(base, engine, None, template_of(place), now), **served}


def exported(name: str, located: Located, kind: str, precision: str, say: Say) -> Path:
    """The folder of this export, made now if it is not there or is one of other weights."""
    folder = default_folder(located, kind, precision)
    try:
        read_artifact(folder, located)
        say(f"{name}: using {folder}, which has passed the parity gate")
    except OutputError:
        say(f"{name}: exporting {kind}:{precision} to {folder}")
        export_model(located, f"{kind}:{precision}", folder, prompts=20, max_tokens=64, texts=500, say=say)
    return folder


def _is_plain_adapter(place: Located) -> bool:
    """Whether vLLM can add it to its base itself."""
    if place.adapter is None or place.quantisation is not None:
        return False
    return is_plain_addition(read_adapter(place.adapter)[0])
