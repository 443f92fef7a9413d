"""vLLM behind the same API: each stream is a request to its server, with the ids of the prompt and none of its own defaults."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from tutelage.errors import need
from tutelage.generate.streams import Job, Output
from tutelage.serve.json_rule import Rule
from tutelage.serve.limits import Limits
from tutelage.serve.problems import ApiError
from tutelage.serve.streams import Streams
from tutelage.serve.vllm_process import VllmProcess

DATA = "data: "
SEEDS = (1 << 63) - 1  # vLLM takes seeds of 63 bits


class VllmEngine(Streams):
    """Streams that vLLM computes. `base` is what its server calls the model without an adapter."""

    def __init__(self, process: VllmProcess, base: str, limits: Limits) -> None:
        super().__init__(limits)
        self.process = process
        self.base = base
        self._httpx: Any = need("httpx", extra="vllm")
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self._closing: asyncio.Task[None] | None = None  # held, or it might be collected before it ran

    @property
    def context(self) -> int | None:
        return self.process.context

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        most = self._httpx.Limits(max_connections=None)  # `check_room` has the bound
        self._client = self._httpx.AsyncClient(
            base_url=self.process.url, headers=self.process.headers, timeout=None, limits=most, trust_env=False
        )

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        if self._loop is not None:
            self._closing = self._loop.create_task(self._client.aclose())

    def _begin(self, job: Job) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._follow(job))
        self._tasks[job] = task
        task.add_done_callback(lambda _: self._tasks.pop(job, None))

    def _drop(self, job: Job) -> None:
        if (task := self._tasks.get(job)) is not None:
            task.cancel()  # closes the connection, which is how vLLM hears of it

    async def _follow(self, job: Job) -> None:
        try:
            async with self._client.stream("POST", "/v1/completions", json=self._asked(job)) as answer:
                if answer.is_error:
                    raise _error(answer.status_code, (await answer.aread()).decode("utf-8", "replace"))
                await self._read(job, _events(answer))
        except ApiError as error:
            self._fail(job, error)
        except (self._httpx.HTTPError, ValueError, KeyError) as error:
            self._fail(job, ApiError(500, f"vLLM did not go on: {type(error).__name__}: {error}", code="engine_error"))

    async def _read(self, job: Job, events: AsyncIterator[dict[str, Any]]) -> None:
        """Deliver the tokens of the events; the last ones wait for the usage, which says what was shared."""
        held: list[Output] = []
        async for event in events:
            if "error" in event:
                raise _error(int(event["error"].get("code") or 500), json.dumps(event))
            if event["choices"]:
                held += _outputs(job, event["choices"][0])
                if held and held[-1].reason is None:
                    self._deliver(held)
                    held = []
            elif event.get("usage"):
                job.shared = int((event["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        if not held:
            raise ValueError("the stream ended before the answer")
        self._deliver(held)

    def _asked(self, job: Job) -> dict[str, Any]:
        sampling = job.sampling
        asked: dict[str, Any] = {
            "model": job.adapter or self.base, "prompt": list(job.ids), "max_tokens": job.max_tokens,
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            # a stop id is this model's, not one of vLLM's choosing
            "stop_token_ids": sorted(job.stop_ids), "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True,
        }  # fmt: skip
        if job.generator is not None and sampling.temperature:
            asked["seed"] = job.generator.initial_seed() & SEEDS
        if job.logprobs is not None:
            asked |= {"logprobs": job.logprobs, "return_tokens_as_token_ids": True}
        if isinstance(job.allow, Rule):
            asked["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": job.allow.schema},
            }
        return asked


def _outputs(job: Job, choice: dict[str, Any]) -> list[Output]:
    """The tokens of one event, and the end if it is one; a stop id at the end is no part of the answer."""
    ids = [int(token) for token in choice["token_ids"]]
    reason = choice["finish_reason"]
    if reason == "stop" and ids and ids[-1] in job.stop_ids:
        ids.pop()
    told = choice.get("logprobs") or {}
    outputs = []
    for i, token in enumerate(ids):
        if job.logprobs is None:
            outputs.append(Output(job, token))
            continue
        best = sorted((told["top_logprobs"][i] or {}).items(), key=lambda pair: -pair[1])[: job.logprobs]
        pairs = tuple((int(name.removeprefix("token_id:")), float(value)) for name, value in best)
        outputs.append(Output(job, token, logprob=float(told["token_logprobs"][i]), alternatives=pairs))
    job.answer += ids
    if reason is not None:
        outputs.append(Output(job, None, "stop" if reason == "stop" else "length"))
    return outputs


async def _events(answer: Any) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event but the closing `[DONE]`."""
    async for line in answer.aiter_lines():
        if line.startswith(DATA) and line != f"{DATA}[DONE]":
            yield json.loads(line.removeprefix(DATA))


def _error(status: int, body: str) -> ApiError:
    """What vLLM refused, with its own words; what it says of itself is this server's failure."""
    try:
        found = json.loads(body)
        message = str((found.get("error") or found)["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        message = body[:300]
    ours = 400 <= status < 500 and status not in (401, 404)
    return ApiError(status if ours else 500, f"vLLM: {message}", code="invalid_value" if ours else "engine_error")
