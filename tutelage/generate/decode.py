"""Ids to a stream of ids, with a key-value cache. Knows no text."""

import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from tutelage.errors import DataError
from tutelage.generate.sampling import Sampling, next_id

Reason = Literal["stop", "length", "context"]  # a stop id, max_tokens reached, or the model's context is full


@dataclass(slots=True)
class Memory:
    """Keys and values of `ids`, kept between two streams, so that a growing conversation is read only once."""

    cache: Any = None
    ids: tuple[int, ...] = ()


def context_limit(model: Any) -> int | None:
    """The most positions that the model's config promises, if it says."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def forward_takes(model: Any) -> frozenset[str]:
    """The arguments that the model's forward names."""
    return _forward_of(type(model))  # type: ignore[arg-type]  # classes are hashable


@functools.cache
def _forward_of(kind: Any) -> frozenset[str]:
    """By class, once: to look costs 50 µs, and it is asked for every token."""
    return frozenset(signature(kind.forward).parameters)


def cache_argument(model: Any) -> str:
    """What the model's forward calls its cache: `cache` where that exists (from transformers 5.24 on the other name warns)."""
    return "cache" if "cache" in forward_takes(model) else "past_key_values"


def stream(
    model: Any,
    prompt_ids: Sequence[int] | NDArray[Any],
    *,
    sampling: Sampling,
    stop_ids: frozenset[int],
    max_tokens: int,
    generator: torch.Generator | None = None,
    memory: Memory | None = None,
) -> Generator[int, None, Reason]:
    """Yield the ids that follow the prompt, without the stop id; the generator's return value is why it ended."""
    ids = [int(i) for i in prompt_ids]
    limit = context_limit(model)
    if not ids:
        raise DataError("the prompt is empty")
    if limit is not None and len(ids) >= limit:
        raise DataError(
            f"the prompt has {len(ids)} tokens, and this model reads at most {limit}",
            why="at least one more must be left for the answer", fix="shorten it, or start anew",
        )  # fmt: skip
    memory = memory if memory is not None else Memory()
    fresh = _reuse(memory, ids, model)
    for _ in range(max_tokens):
        logits = read(model, fresh, memory)
        chosen = next_id(logits, sampling, seen=_seen(ids, logits, sampling), generator=generator)
        if chosen in stop_ids:
            return "stop"
        yield chosen
        ids.append(chosen)
        fresh = [chosen]
        if limit is not None and len(ids) >= limit:
            return "context"
    return "length"


def _seen(ids: list[int], logits: torch.Tensor, sampling: Sampling) -> torch.Tensor | None:
    return None if sampling.repetition_penalty == 1.0 else torch.tensor(ids, device=logits.device)


def _reuse(memory: Memory, ids: list[int], model: Any) -> list[int]:
    """The ids that must still be read; the memory is cut to what it shares with `ids`, or begun anew."""
    shared = 0
    for old, new in zip(memory.ids, ids[:-1]):  # the last one is always read: its logits are needed
        if old != new:
            break
        shared += 1
    # Layers with a sliding window or a running state have forgotten what a shorter cache would need.
    if memory.cache is None or shared == 0 or (shared < len(memory.ids) and not _croppable(model)):
        memory.cache, shared = DynamicCache(config=model.config), 0
    elif shared < len(memory.ids):
        memory.cache.crop(shared - len(memory.ids))  # negative: that many fewer
    memory.ids = tuple(ids[:shared])
    return ids[shared:]


def _croppable(model: Any) -> bool:
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    return set(kinds) == {"full_attention"} and getattr(config, "sliding_window", None) is None


def read(model: Any, ids: list[int], memory: Memory) -> torch.Tensor:
    """[vocabulary]: the logits behind `ids`, which `memory` remembers from now on; an empty memory begins anew."""
    # Inference mode must not span a `yield`: it would leak into whoever consumes the stream.
    with torch.inference_mode():
        given = torch.tensor([ids], device=model.device)
        if memory.cache is None:
            memory.cache = DynamicCache(config=model.config)
        try:
            out = model(
                input_ids=given, use_cache=True, logits_to_keep=1, **{cache_argument(model): memory.cache}
            )  # fmt: skip
        except BaseException:  # interrupted half-way: some layers have seen these ids and some have not
            memory.cache, memory.ids = None, ()
            raise
        memory.ids += tuple(ids)
        logits: torch.Tensor = out.logits[0, -1]
        return logits
