"""Streams of tokens for the event loop, whatever engine makes them: how many may come, how long they may take, who goes."""

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tutelage.generate.streams import Job, Output
from tutelage.serve.limits import Limits
from tutelage.serve.problems import ApiError, busy


@dataclass(eq=False)
class Stream:
    """One job's outputs as they come, in bursts. `started` and `first` are times of time.monotonic()."""

    job: Job
    outputs: asyncio.Queue[list[Output] | ApiError] = field(default_factory=asyncio.Queue)
    started: float = field(default_factory=time.monotonic)
    first: float | None = None


class Streams(ABC):
    """An engine as the routes see it. All methods are called from one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.streams: dict[Job, Stream] = {}
        self.tokens = 0
        self.shared = 0
        self.seconds_per_answer = 1.0  # a running mean, for Retry-After

    @property
    @abstractmethod
    def context(self) -> int | None:
        """The most tokens of prompt and answer together."""

    @abstractmethod
    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; outputs go to this loop."""

    @abstractmethod
    def stop(self) -> None:
        """End; what still runs is dropped."""

    @abstractmethod
    def _begin(self, job: Job) -> None:
        """Let outputs of this job come."""

    @abstractmethod
    def _drop(self, job: Job) -> None:
        """Nobody waits for this job any more."""

    @property
    def running(self) -> int:
        """Streams that have a slot."""
        return min(len(self.streams), self.limits.slots)

    @property
    def waiting(self) -> int:
        """Streams that have none yet."""
        return max(0, len(self.streams) - self.limits.slots)

    def check_room(self, jobs: int) -> None:
        """An ApiError with 429 unless so many more jobs may come."""
        if len(self.streams) + jobs > self.limits.slots + self.limits.queue:
            rounds = len(self.streams) / self.limits.slots
            raise busy(max(1, math.ceil(self.seconds_per_answer * rounds / 2)))

    def submit(self, job: Job) -> Stream:
        """Queue a job that `check_room` has let in."""
        stream = Stream(job)
        self.streams[job] = stream
        self._begin(job)
        return stream

    def cancel(self, stream: Stream) -> None:
        """Forget a stream; nothing happens where it has ended."""
        if self.streams.pop(stream.job, None) is not None:
            self._drop(stream.job)
            stream.outputs.put_nowait(ApiError(499, "The request was cancelled.", code="cancelled"))

    async def outputs(self, stream: Stream) -> AsyncIterator[list[Output]]:
        """The stream's outputs up to its end, burst by burst; leaving early cancels it, and so does the time limit."""
        late = ApiError(408, f"The answer took longer than {self.limits.seconds:g} s.", code="timeout")
        left = max(0.0, stream.started + self.limits.seconds - time.monotonic())
        timer = asyncio.get_running_loop().call_later(left, stream.outputs.put_nowait, late)
        try:
            while True:
                burst = await stream.outputs.get()
                if isinstance(burst, ApiError):
                    raise burst
                yield burst
                if burst[-1].reason is not None:
                    return
        finally:
            timer.cancel()
            self.cancel(stream)

    def _deliver(self, outputs: list[Output]) -> None:
        """Hand outputs to their streams; those of streams that were forgotten meanwhile are nobody's."""
        now = time.monotonic()
        bursts: dict[Stream, list[Output]] = {}
        for output in outputs:
            stream = self.streams.get(output.job)
            if stream is None:
                continue
            if stream.first is None:
                stream.first = now
                self.shared += output.job.shared
            self.tokens += output.token is not None
            if output.reason is not None:
                del self.streams[output.job]
                self.seconds_per_answer += 0.1 * (now - stream.started - self.seconds_per_answer)
            bursts.setdefault(stream, []).append(output)
        for stream, burst in bursts.items():
            stream.outputs.put_nowait(burst)

    def _fail(self, job: Job, error: ApiError) -> None:
        """Tell whoever waits for this job that it cannot go on."""
        stream = self.streams.pop(job, None)
        if stream is not None:
            stream.outputs.put_nowait(error)
