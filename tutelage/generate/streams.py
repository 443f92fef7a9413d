"""Continuous batching: many streams over one model, each step a token for every stream and a piece of the waiting prompts.

A stream that ends gives its place to the next one at once. A prompt that begins like one that was read before (a system
prompt, an earlier turn) takes those keys and values over; one that begins like a prompt being read just now waits for it.
The engine knows ids, no text, and no threads: whoever drives it calls `step` until `busy` says no.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tutelage.generate.decode import Reason
from tutelage.generate.keys_values import Kept, shared_length
from tutelage.generate.runner import Chunk, Runner
from tutelage.generate.sampling import Sampling, next_id

WORTH = 16  # a beginning shorter than this is read again rather than waited for

Allow = Callable[
    [Sequence[int], Tensor], Tensor
]  # (answer so far, logits [vocabulary]) → logits with -inf for what may not come


@dataclass(eq=False)
class Job:
    """One stream to be made. `logprobs`: how many alternatives to report beside each token; None reports nothing."""

    ids: Sequence[int]
    sampling: Sampling
    stop_ids: frozenset[int]
    max_tokens: int
    adapter: str | None = None
    generator: torch.Generator | None = None
    logprobs: int | None = None
    allow: Allow | None = None
    answer: list[int] = field(default_factory=list)
    shared: int = 0  # prompt tokens that were taken over
    state: Any = None

    @property
    def pending(self) -> int:
        """Prompt tokens not read yet."""
        return len(self.ids) - (len(self.state.ids) if self.state is not None else 0)


@dataclass(frozen=True, slots=True)
class Output:
    """What a step brought to a job: a token, or with `reason` its end. `alternatives` are (id, log-probability)."""

    job: Job
    token: int | None
    reason: Reason | None = None
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


class Batch:
    """The streams of one model. `slots` run at a time; `prefill` prompt tokens are read per step; `keep` tokens stay."""

    def __init__(self, runner: Runner, *, slots: int = 8, prefill: int = 256, keep: int = 8192) -> None:
        self.runner = runner
        self.slots = slots
        self.prefill = prefill
        self.kept = Kept(keep)
        self.waiting: deque[Job] = deque()
        self.active: list[Job] = []

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.active)

    def add(self, job: Job) -> None:
        """Queue a job. The prompt must not be empty, nor fill the model's context."""
        self.waiting.append(job)

    def remove(self, job: Job) -> None:
        """Forget a job, wherever it is; its slot is free at once."""
        if job in self.active:
            self._end(job)
        elif job in self.waiting:
            self.waiting.remove(job)

    def _end(self, job: Job) -> None:
        self.active.remove(job)
        job.state.rest()
        if job.state.ids:
            self.kept.add(job.adapter or "", job.state)
        job.state = None

    def clear(self) -> None:
        """Forget all jobs and what was kept of them, in whatever state a failure left them."""
        for job in self.active:
            job.state.drop()
            job.state = None
        self.active.clear()
        self.waiting.clear()
        self.kept = Kept(self.kept.most)

    def step(self) -> list[Output]:
        """One pass over the model; what each job got from it."""
        self._admit()
        chosen = self._chunks()
        if not chosen:
            return []
        logits = self.runner.forward([Chunk(job.state, ids, job.adapter) for job, ids in chosen])
        ready = [i for i, (job, _) in enumerate(chosen) if job.pending <= 0]
        greedy = _greedy(logits, ready, [job for job, _ in chosen])
        outputs: list[Output] = []
        for i in ready:
            job = chosen[i][0]
            output = self._token(job, logits[i], greedy.get(i))
            outputs.append(output)
            reason = self._reason(job, output)
            if reason is not None:
                self._end(job)
                outputs[-1:] = (
                    [output, Output(job, None, reason)] if output.token is not None else [Output(job, None, reason)]
                )
        return outputs

    def _chunks(self) -> list[tuple[Job, Sequence[int]]]:
        """The last token of every stream that answers, and the next pieces of prompts, as many as fit."""
        chosen: list[tuple[Job, Sequence[int]]] = []
        left = self.prefill
        for job in self.active:
            if job.pending <= 0:
                chosen.append((job, job.answer[-1:]))
            elif left > 0:
                start = len(job.state.ids)
                piece = job.ids[start : start + left]
                left -= len(piece)
                chosen.append((job, piece))
        return chosen

    def _token(self, job: Job, logits: Tensor, greedy: int | None) -> Output:
        if job.allow is not None:
            logits = job.allow(job.answer, logits)
        if greedy is None:
            seen = torch.tensor([*job.ids, *job.answer]) if job.sampling.repetition_penalty != 1.0 else None
            greedy = next_id(logits, job.sampling, seen=seen, generator=job.generator)
        if greedy in job.stop_ids:
            return Output(job, None, "stop")
        job.answer.append(greedy)
        if job.logprobs is None:
            return Output(job, greedy)
        logs = torch.log_softmax(logits, dim=-1)
        best = logs.topk(job.logprobs) if job.logprobs else None
        pairs = tuple(zip(best.indices.tolist(), best.values.tolist())) if best is not None else ()
        return Output(job, greedy, logprob=float(logs[greedy]), alternatives=pairs)

    def _reason(self, job: Job, output: Output) -> Reason | None:
        if output.token is None:
            return "stop"
        if len(job.answer) >= job.max_tokens:
            return "length"
        limit = self.runner.context
        return "context" if limit is not None and len(job.ids) + len(job.answer) >= limit else None

    # Who comes in, and what it takes over

    def _admit(self) -> None:
        for job in list(self.waiting):
            if len(self.active) >= self.slots:
                return
            older, shared = self._longest(job)
            if self._coming(job) > shared + WORTH:
                continue  # it is being read just now, for another job
            self.waiting.remove(job)
            job.state = self.runner.begin(older, shared)
            job.shared = len(job.state.ids)
            self.active.append(job)

    def _longest(self, job: Job) -> tuple[Any | None, int]:
        """The sequence that begins most like the job's prompt, and how far; the prompt's last token is always read."""
        owner, most = job.adapter or "", len(job.ids) - 1
        older, shared = self.kept.best(owner, job.ids)
        for other in self.active:
            if (other.adapter or "") == owner and (common := shared_length(other.state.ids, job.ids)) > shared:
                older, shared = other.state, common
        return (older, min(shared, most)) if min(shared, most) > 0 else (None, 0)

    def _coming(self, job: Job) -> int:
        """How many tokens of the prompt another job is about to have read."""
        reading = [other for other in self.active if other.adapter == job.adapter and other.pending > 0]
        return max((shared_length(other.ids, job.ids) for other in reading), default=0)


def _greedy(logits: Tensor, ready: list[int], jobs: list[Job]) -> dict[int, int]:
    """The likeliest token of each row that takes it without conditions, found in one go."""
    plain = [
        i for i in ready
        if jobs[i].sampling.temperature == 0.0 and jobs[i].sampling.repetition_penalty == 1.0 and jobs[i].allow is None
    ]  # fmt: skip
    rows = logits if len(plain) == len(logits) else logits[plain]  # all of them need no copy
    return dict(zip(plain, rows.argmax(dim=-1).tolist())) if plain else {}
