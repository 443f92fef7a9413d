"""Many prompts at once: ids to ids, in batches of similar length, keeping of each step only the last logits.

The same prompts, settings and seed give the same answers: rows are batched by length alone, and each draws from a
generator of its own. `decode.stream` is the plain reference for one prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from tutelage.engine.attention import NAME, switch_off
from tutelage.errors import DataError, OutOfMemoryError, Problem
from tutelage.generate.decode import Reason, cache_argument, context_limit, forward_takes
from tutelage.generate.sampling import Sampling, next_id

Ids = Sequence[int] | NDArray[Any]
GREEDY = Sampling()
# Positions of keys and values that a batch may hold: of a 135M model 0.2 to 0.5 GB. More only waits for the longest answer.
CACHE_TOKENS = {"cpu": 8_192, "cuda": 131_072}


@dataclass(frozen=True, slots=True)
class Generated:
    """The ids that follow a prompt, without the stop id, and why they ended."""

    ids: tuple[int, ...]
    ended: Reason


@dataclass(slots=True)
class _Row:
    place: int
    ids: list[int]
    prompt: int
    generator: torch.Generator


def generate(
    model: Any, prompts: Sequence[Ids], *, stop_ids: frozenset[int], max_tokens: int, sampling: Sampling = GREEDY,
    seed: int = 0, cache_tokens: int | None = None, done: Callable[[int], None] = lambda count: None,
) -> list[Generated]:  # fmt: skip
    """What follows each prompt. Out of memory: the batch is halved and done again. `done` hears how many are ready."""
    limit = context_limit(model)
    rows = [_Row(i, [int(t) for t in p], len(p), _generator(model, seed, i)) for i, p in enumerate(prompts)]
    _check(rows, limit)
    rows.sort(key=lambda row: (-row.prompt, row.place))
    room = cache_tokens or CACHE_TOKENS[model.device.type]
    found: dict[int, Generated] = {}
    start = 0
    with plain_attention(model):
        while start < len(rows):
            size = max(1, room // (rows[start].prompt + max_tokens))
            batch = rows[start : start + size]
            try:
                found |= _answer(model, batch, stop_ids, max_tokens, sampling, limit)
            except (MemoryError, torch.OutOfMemoryError) as error:
                if len(batch) == 1:
                    raise OutOfMemoryError("not even one answer fits into memory", fix="lower max_tokens") from error
                room //= 2
                for row in batch:  # done again from the prompt, with the same draws
                    row.ids, row.generator = row.ids[: row.prompt], _generator(model, seed, row.place)
                continue
            start += len(batch)
            done(start)
    return [found[place] for place in range(len(rows))]


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Our packed attention knows no padding mask: decoding runs with what transformers has for the model."""
    before = model.config._attn_implementation
    switch_off(model)
    try:
        yield
    finally:
        if before == NAME:
            model.set_attn_implementation(NAME)


def _generator(model: Any, seed: int, place: int) -> torch.Generator:
    return torch.Generator(model.device).manual_seed(seed * 1_000_003 + place)


def _check(rows: Sequence[_Row], limit: int | None) -> None:
    problems = [
        Problem(
            f"prompt {row.place + 1} has {row.prompt} tokens" if row.prompt else f"prompt {row.place + 1} is empty",
            why=f"this model reads at most {limit}, and at least one must be left for the answer",
        )
        for row in rows
        if row.prompt == 0 or (limit is not None and row.prompt >= limit)
    ]
    if problems:
        raise DataError(problems)


@torch.inference_mode()
def _answer(
    model: Any, batch: Sequence[_Row], stop_ids: frozenset[int], max_tokens: int, sampling: Sampling, limit: int | None
) -> dict[int, Generated]:
    """The answers of one batch. Prompts stand right-aligned; rows that have ended leave the batch."""
    found: dict[int, Generated] = {}
    rows, longest, device = list(batch), max(row.prompt for row in batch), model.device
    mask = torch.tensor([[0] * (longest - row.prompt) + [1] * row.prompt for row in rows], device=device)
    given = torch.tensor([[0] * (longest - row.prompt) + row.ids for row in rows], device=device)
    cache = DynamicCache(config=model.config)
    for _ in range(max_tokens):
        logits = _forward(model, given, mask, cache)
        chosen = [_choose(row, logits[i], sampling) for i, row in enumerate(rows)]
        going = []
        for index, (row, token) in enumerate(zip(rows, chosen)):
            if token in stop_ids:
                found[row.place] = Generated(tuple(row.ids[row.prompt :]), "stop")
                continue
            row.ids.append(token)
            if limit is not None and len(row.ids) >= limit:
                found[row.place] = Generated(tuple(row.ids[row.prompt :]), "context")
            else:
                going.append(index)
        if len(going) < len(rows):
            rows = [rows[i] for i in going]
            if not rows:
                return found
            keep = torch.tensor(going, device=device)
            cache.batch_select_indices(keep)
            mask = mask[keep]
        given = torch.tensor([[row.ids[-1]] for row in rows], device=device)
        mask = torch.cat((mask, torch.ones_like(mask[:, :1])), dim=1)
    return found | {row.place: Generated(tuple(row.ids[row.prompt :]), "length") for row in rows}


def _choose(row: _Row, logits: torch.Tensor, sampling: Sampling) -> int:
    seen = None if sampling.repetition_penalty == 1.0 else torch.tensor(row.ids, device=logits.device)
    return next_id(logits, sampling, seen=seen, generator=row.generator)


def _forward(model: Any, given: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """[B, V]: the logits behind the last of `given` [B, T]; mask [B, everything so far]."""
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -given.shape[1] :]
    extra: dict[str, Any] = {"position_ids": positions} if "position_ids" in forward_takes(model) else {}
    extra[cache_argument(model)] = cache
    out = model(input_ids=given, attention_mask=mask, use_cache=True, logits_to_keep=1, **extra)
    logits: torch.Tensor = out.logits[:, -1]
    return logits
