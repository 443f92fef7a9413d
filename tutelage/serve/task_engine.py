"""Rows of the requests that wait, computed together in a thread of its own, a part of each request at a time."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tutelage.serve.limits import Limits
from tutelage.serve.problems import ApiError, busy

ROWS = 32  # of one computation: what a request that comes late waits for at most

Compute = Callable[[Sequence[Any]], list[Any]]


@dataclass(eq=False)
class Work:
    """The rows of one request. `done` holds what came of each, `taken` is how many the thread has begun."""

    rows: Sequence[Any]
    future: asyncio.Future[list[Any]]
    started: float = field(default_factory=time.monotonic)
    done: list[Any] = field(default_factory=list)
    taken: int = 0


Part = tuple[Work, int]  # a request and how many of its rows


class TaskEngine:
    """Computes rows. All methods but the thread's own are called from one event loop."""

    def __init__(self, compute: Compute, limits: Limits, threads: int | None = None) -> None:
        self.compute = compute
        self.limits = limits
        self.threads = threads
        self.works: list[Work] = []
        self.seconds_per_answer = 1.0  # a running mean, for Retry-After
        self._waiting: deque[Work] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="tutelage-tasks", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; results go to this loop."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what still waits is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @property
    def running(self) -> int:
        """Requests of which some rows have been begun."""
        return sum(work.taken > 0 for work in self.works)

    @property
    def waiting(self) -> int:
        """Requests that have not been looked at."""
        return len(self.works) - self.running

    async def results(self, rows: Sequence[Any], opened: Callable[[Work], None]) -> list[Any]:
        """What comes of each row, in their order; `opened` hears the work, which `cancel` ends early.

        An ApiError with 429 where the queue is full, and with 408 after the time limit.
        """
        if len(self.works) >= self.limits.slots + self.limits.queue:
            raise busy(max(1, math.ceil(self.seconds_per_answer * len(self.works) / 2)))
        work = Work(rows, asyncio.get_running_loop().create_future())
        self.works.append(work)
        opened(work)
        with self._changed:
            self._waiting.append(work)
            self._changed.notify()
        try:
            return await asyncio.wait_for(work.future, self.limits.seconds)
        except TimeoutError:
            raise ApiError(408, f"The answer took longer than {self.limits.seconds:g} s.", code="timeout") from None
        finally:
            self.cancel(work)

    def cancel(self, work: Work) -> None:
        """Forget a request; nothing happens where it has ended."""
        if work in self.works:
            self.works.remove(work)
            with self._changed:
                if work in self._waiting:
                    self._waiting.remove(work)
        if not work.future.done():
            work.future.set_exception(ApiError(499, "The request was cancelled.", code="cancelled"))

    def _deliver(self, parts: Sequence[Part], results: Sequence[Any]) -> None:
        rest = iter(results)
        for work, count in parts:
            work.done += [next(rest) for _ in range(count)]
            if len(work.done) == len(work.rows) and not work.future.done():
                self.seconds_per_answer += 0.1 * (time.monotonic() - work.started - self.seconds_per_answer)
                work.future.set_result(work.done)

    def _fail(self, parts: Sequence[Part], message: str) -> None:
        for work, _ in parts:
            if not work.future.done():
                work.future.set_exception(ApiError(500, message, code="engine_error"))

    # The thread

    def _run(self) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or len(self._waiting) > 0)
                if self._stopping:
                    return
                parts, rows = self._take()
            try:
                results = self.compute(rows)
            except Exception as error:  # whatever a forward pass raises: the server lives on, those requests do not
                self._call(self._fail, parts, f"The model could not be computed: {type(error).__name__}: {error}")
            else:
                self._call(self._deliver, parts, results)

    def _take(self) -> tuple[list[Part], list[Any]]:
        """The next rows: an equal share of each request that waits, so that a long one holds nobody up."""
        share = max(1, ROWS // len(self._waiting))
        parts: list[Part] = []
        rows: list[Any] = []
        while self._waiting and len(rows) + share <= ROWS and all(work is not self._waiting[0] for work, _ in parts):
            work = self._waiting.popleft()
            taken = work.rows[work.taken : work.taken + share]
            work.taken += len(taken)
            parts.append((work, len(taken)))
            rows += taken
            if work.taken < len(work.rows):
                self._waiting.append(work)
        return parts, rows

    def _call(self, function: Callable[..., None], *values: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *values)
