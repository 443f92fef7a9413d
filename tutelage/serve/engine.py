"""A model's batch in a thread of its own, and streams of its tokens for the event loop. Knows ids and no text."""

import asyncio
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import torch

from tutelage.generate.runner import Runner
from tutelage.generate.streams import Batch, Job, Output
from tutelage.serve.limits import Limits
from tutelage.serve.problems import ApiError, busy

Command = Callable[[Batch], None]
# First tokens and ends are told at once, others in bursts: so many a second in all, as each costs the event loop 1 to 2 ms in
# which the engine waits for the interpreter. One stream gets 30 a second, many streams 8 a second each.
BURSTS = 60
SHORTEST, LONGEST = 1 / 30, 1 / 8  # seconds


def burst_seconds(streams: int) -> float:
    """How long tokens of so many streams are held back at most."""
    return min(max(SHORTEST, streams / BURSTS), LONGEST)


@dataclass(eq=False)
class Stream:
    """One job's outputs as they come, in bursts. `started` and `first` are times of time.monotonic()."""

    job: Job
    outputs: asyncio.Queue[list[Output] | ApiError] = field(default_factory=asyncio.Queue)
    started: float = field(default_factory=time.monotonic)
    first: float | None = None


class Engine:
    """Runs jobs. All methods but the thread's own are called from one event loop."""

    def __init__(self, runner: Runner, limits: Limits, threads: int | None = None) -> None:
        self.runner = runner
        self.limits = limits
        self.threads = threads
        self.streams: dict[Job, Stream] = {}
        self.tokens = 0
        self.shared = 0
        self.seconds_per_answer = 1.0  # a running mean, for Retry-After
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="tutelage-engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; outputs go to this loop."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what still runs is dropped."""
        self._commands.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

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
        self._commands.put(lambda batch: batch.add(job))
        return stream

    def cancel(self, stream: Stream) -> None:
        """Forget a stream; nothing happens where it has ended."""
        if self.streams.pop(stream.job, None) is not None:
            self._commands.put(lambda batch: batch.remove(stream.job))
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

    def _fail(self, message: str) -> None:
        """Tell everyone who waits that the model could not go on."""
        for stream in list(self.streams.values()):
            del self.streams[stream.job]
            stream.outputs.put_nowait(ApiError(500, message, code="engine_error"))

    # The thread

    def _run(self) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        limits = self.limits
        batch = Batch(self.runner, slots=limits.slots, prefill=limits.prefill, keep=limits.keep)
        held, told = list[Output](), 0.0
        while True:
            while not self._commands.empty() or not batch.busy:
                command = self._commands.get()
                if command is None:
                    return
                command(batch)
            try:
                outputs = batch.step()
            except Exception as error:  # whatever a forward pass raises: the server lives on, those streams do not
                self._call(self._deliver, held)
                self._call(self._fail, f"The model could not be computed: {type(error).__name__}: {error}")
                batch.clear()
                held = []
                continue
            held += outputs
            now = time.monotonic()
            urgent = any(len(each.job.answer) < 2 or each.reason is not None for each in outputs)
            if held and (urgent or now - told >= burst_seconds(len(batch.active))):
                self._call(self._deliver, held)
                held, told = [], now

    def _call(self, function: Callable[..., None], *values: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *values)
