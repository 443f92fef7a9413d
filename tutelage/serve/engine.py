"""A model's batch in a thread of its own, and streams of its tokens for the event loop. Knows ids and no text."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable

import torch

from tutelage.generate.runner import Runner
from tutelage.generate.streams import Batch, Job, Output
from tutelage.serve.limits import Limits
from tutelage.serve.problems import ApiError
from tutelage.serve.streams import Streams

Command = Callable[[Batch], None]
# First tokens and ends are told at once, others in bursts: so many a second in all, as each costs the event loop 1 to 2 ms in
# which the engine waits for the interpreter. One stream gets 30 a second, many streams 8 a second each.
BURSTS = 60
SHORTEST, LONGEST = 1 / 30, 1 / 8  # seconds


def burst_seconds(streams: int) -> float:
    """How long tokens of so many streams are held back at most."""
    return min(max(SHORTEST, streams / BURSTS), LONGEST)


class Engine(Streams):
    """Runs jobs in a thread."""

    def __init__(self, runner: Runner, limits: Limits, threads: int | None = None) -> None:
        super().__init__(limits)
        self.runner = runner
        self.threads = threads
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="tutelage-engine", daemon=True)

    @property
    def context(self) -> int | None:
        return self.runner.context

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; outputs go to this loop."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what still runs is dropped."""
        self._commands.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _begin(self, job: Job) -> None:
        self._commands.put(lambda batch: batch.add(job))

    def _drop(self, job: Job) -> None:
        self._commands.put(lambda batch: batch.remove(job))

    def _fail_all(self, message: str) -> None:
        for job in list(self.streams):
            self._fail(job, ApiError(500, message, code="engine_error"))

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
                self._call(self._fail_all, f"The model could not be computed: {type(error).__name__}: {error}")
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
