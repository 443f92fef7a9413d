"""Streams of ids as the text, log-probabilities and ends of choices, for either route."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import torch

from tutelage.generate.sampling import Sampling
from tutelage.generate.streams import Allow, Job, Output
from tutelage.generate.text import Decoder, StopTexts
from tutelage.serve.limits import Limits
from tutelage.serve.problems import ApiError, too_long
from tutelage.serve.served import Served
from tutelage.serve.streams import Stream

# Cleaning up would change text that is already sent; special tokens are the template's, not the answer's.
DECODING = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
FINISH = {"stop": "stop", "length": "length", "context": "length"}


@dataclass(frozen=True)
class Wanted:
    """What a request asks for, whichever route it came by."""

    sampling: Sampling
    max_tokens: int
    n: int
    stops: Sequence[str]
    seed: int | None
    logprobs: int | None
    rule: Callable[[], Allow] | None = None  # makes the rule that each answer must follow


@dataclass(frozen=True)
class Piece:
    """Text that a choice goes on with, the tokens behind it, and with `finish` its end."""

    index: int
    text: str
    tokens: tuple[Output, ...] = ()
    finish: str | None = None


@dataclass
class Usage:
    """Tokens of a request."""

    prompt: int
    shared: int = 0
    completion: int = 0

    def as_json(self) -> dict[str, Any]:
        """OpenAI's `usage`."""
        return {
            "prompt_tokens": self.prompt, "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion, "prompt_tokens_details": {"cached_tokens": self.shared},
        }  # fmt: skip


@dataclass
class Request:
    """The streams of one request. `close` ends them all; nothing happens to those that have ended."""

    model: Served
    wanted: Wanted
    usage: Usage
    streams: list[Stream] = field(default_factory=list)

    def close(self) -> None:
        """Free every slot that is still held."""
        for stream in self.streams:
            self.model.engine.cancel(stream)

    @property
    def first_token_seconds(self) -> float | None:
        """From the request to its first token."""
        times = [stream.first - stream.started for stream in self.streams if stream.first is not None]
        return min(times) if times else None

    async def pieces(self) -> AsyncIterator[Piece]:
        """The choices' pieces as they come, those of all choices mixed; each choice ends with a `finish`."""
        if len(self.streams) == 1:  # as nearly always: no task and no second queue
            try:
                async with aclosing(self._choice(0, self.streams[0])) as choice:
                    async for each in choice:
                        yield each
            finally:
                self.close()
            return
        ready: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

        async def follow(index: int, stream: Stream) -> None:
            try:
                async for piece in self._choice(index, stream):
                    ready.put_nowait(piece)
            except ApiError as error:
                ready.put_nowait(error)
            ready.put_nowait(None)

        tasks = [asyncio.ensure_future(follow(i, stream)) for i, stream in enumerate(self.streams)]
        try:
            left = len(tasks)
            while left:
                piece = await ready.get()
                if isinstance(piece, Exception):
                    raise piece
                if piece is None:
                    left -= 1
                else:
                    yield piece
        finally:
            for task in tasks:
                task.cancel()
            self.close()

    async def _choice(self, index: int, stream: Stream) -> AsyncGenerator[Piece]:
        tokenizer = self.model.template.tokenizer
        decoder, stops = Decoder(lambda ids: str(tokenizer.decode(ids, **DECODING))), StopTexts(self.wanted.stops)
        behind: list[Output] = []
        async for burst in self.model.engine.outputs(stream):
            text, finish = "", None
            self.usage.shared = max(self.usage.shared, stream.job.shared)
            told = [output for output in burst if output.token is not None]
            # token by token only where one may end a stop text: those behind it do not count
            for part in [[output] for output in told] if self.wanted.stops else [told]:
                self.usage.completion += len(part)
                behind += part
                text += stops.push(decoder.push(*(output.token for output in part if output.token is not None)))
                if stops.stopped:
                    yield Piece(index, text, tuple(behind), "stop")
                    return
            if (reason := burst[-1].reason) is not None:
                text += stops.push(decoder.finish()) + stops.finish()
                finish = FINISH[reason]
            if text or finish is not None:
                yield Piece(index, text, tuple(behind), finish)
                behind = []


def begin_all(model: Served, prompts: Sequence[Sequence[int]], wanted: Wanted) -> Request:
    """Queue `n` streams for each prompt: choice i belongs to prompt i // n."""
    for ids in prompts:
        if not ids:
            raise ApiError(400, "The prompt is empty.", code="invalid_value", param="prompt")
        if model.context is not None and len(ids) + wanted.max_tokens > model.context:
            raise too_long(len(ids), wanted.max_tokens, model.context)
    engine = model.engine
    engine.check_room(len(prompts) * wanted.n)
    request = Request(model, wanted, Usage(sum(len(ids) for ids in prompts)))
    for index in range(len(prompts) * wanted.n):
        generator = torch.Generator()
        if wanted.seed is None:
            generator.seed()
        else:
            generator.manual_seed(wanted.seed + index % wanted.n)
        job = Job(
            list(prompts[index // wanted.n]), wanted.sampling, model.template.stop_ids, wanted.max_tokens, model.adapter,
            generator, wanted.logprobs, wanted.rule() if wanted.rule is not None else None,
        )  # fmt: skip
        request.streams.append(engine.submit(job))
    return request


def answer_room(model: Served, prompt: int, asked: int | None, limits: Limits) -> int:
    """The `max_tokens` of a request: what was asked for, or what the server grants and the context leaves."""
    if asked is not None:
        if asked > limits.answer:
            raise ApiError(
                400, f"max_tokens is {asked}, and this server grants at most {limits.answer}.", code="invalid_value",
                param="max_tokens",
            )  # fmt: skip
        return asked
    left = limits.default_answer if model.context is None else min(limits.default_answer, model.context - prompt)
    if left < 1:
        raise too_long(prompt, 1, model.context or 0)
    return left
