"""The engine's thread: tokens come in their order, the first and the last at once, those between in bursts."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tutelage.generate.plain_runner import PlainRunner
from tutelage.generate.sampling import Sampling
from tutelage.generate.streams import Batch, Job, Output
from tutelage.models.load import load_model
from tutelage.serve import engine as engines
from tutelage.serve.engine import Engine
from tutelage.serve.limits import Limits
from tutelage.serve.problems import ApiError

PROMPT, TOKENS = [1, 7, 9, 30], 60


def job() -> Job:
    return Job(PROMPT, Sampling(temperature=0.0), frozenset(), TOKENS)


async def bursts_of(engine: Engine) -> list[list[Output]]:
    engine.start(asyncio.get_running_loop())
    stream = engine.submit(job())
    return [burst async for burst in engine.outputs(stream)]


def test_tokens_come_in_order_the_first_and_the_end_at_once(model_folder: Callable[[str], Path]) -> None:
    runner = PlainRunner(load_model(model_folder("llama"), dtype=torch.float32))
    alone, batch = job(), Batch(runner)
    batch.add(alone)
    while batch.busy:
        batch.step()
    engine = Engine(runner, Limits(), threads=1)
    try:
        bursts = asyncio.run(bursts_of(engine))
    finally:
        engine.stop()
    assert [output.token for burst in bursts for output in burst if output.token is not None] == alone.answer
    assert len(bursts[0]) == 1
    assert bursts[-1][-1].reason == "length"
    assert all(output.reason is None for burst in bursts for output in burst[:-1])
    assert max(len(burst) for burst in bursts) > 1  # the tiny model makes a token in less than the time of a burst
    assert engine.tokens == TOKENS


def test_without_a_time_for_bursts_every_token_is_told_alone(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "burst_seconds", lambda streams: 0.0)
    engine = Engine(PlainRunner(load_model(model_folder("llama"), dtype=torch.float32)), Limits(), threads=1)
    try:
        bursts = asyncio.run(bursts_of(engine))
    finally:
        engine.stop()
    assert [len(burst) for burst in bursts[:-1]] == [1] * (TOKENS - 1)


def test_many_streams_share_the_events_of_a_second_and_none_waits_long() -> None:
    assert [engines.burst_seconds(streams) for streams in (0, 1, 2, 6, 64)] == [1 / 30, 1 / 30, 1 / 30, 0.1, 1 / 8]


def test_an_answer_that_takes_too_long_ends_with_408(model_folder: Callable[[str], Path]) -> None:
    runner = PlainRunner(load_model(model_folder("llama"), dtype=torch.float32))
    engine = Engine(runner, Limits(seconds=0.0), threads=1)
    try:
        with pytest.raises(ApiError) as caught:
            asyncio.run(bursts_of(engine))
    finally:
        engine.stop()
    assert caught.value.status_code == 408
    assert not engine.streams
