"""Models that write, as probes ask them: a causal model behind its chat template, or an encoder-decoder.

An encoder-decoder reads what a causal model is prompted with, without the prefix of the task that it was tuned for, and
writes what a causal model would go on with. It cannot score a text that nothing stands before (`needs_context`).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from tutelage.data.types import At, Message
from tutelage.encode.padded import buckets, pad
from tutelage.encode.template import ROLES, Template
from tutelage.encode.types import Encoded
from tutelage.engine.backbone import Backbone
from tutelage.engine.paired import Paired
from tutelage.engine.precision import ExecutionPlan
from tutelage.evaluate.probing import Request
from tutelage.generate.answer import text_of
from tutelage.generate.batch import generate
from tutelage.generate.sampling import Sampling
from tutelage.tasks.likelihood import backbone_of, target_losses
from tutelage.tasks.seq2seq import Pairs
from tutelage.tasks.types import Bound


class Writer(Protocol):
    """What probing needs of a model. `tokens` is the same for two models that write in the same tokens."""

    @property
    def needs_context(self) -> bool:
        """Whether `row` needs a `context` that is not empty."""
        ...

    @property
    def tokens(self) -> str: ...

    def row(self, context: str, text: str, at: At) -> Encoded:
        """`text` behind `context`, only `text` to be scored."""
        ...

    def losses(self, rows: Sequence[Encoded]) -> list[NDArray[np.float64]]:
        """-log p in nats of what is to be scored of each row."""
        ...

    def answer(self, prompts: Sequence[str], most: int) -> list[str]:
        """Greedy answers of at most so many tokens."""
        ...

    def sample(self, requests: Sequence[Request], most: int, seed: int) -> tuple[Encoded, ...]:
        """Each prompt with an answer that is drawn from the model's own distribution; the token that ends it is part of it."""
        ...


def writer_of(task: Bound, backbone: Any, plan: ExecutionPlan) -> Writer | None:
    """The opened model of a task, if it writes: causal with a chat template, whether the task uses it or not, or an
    encoder-decoder."""
    if not can_write(task):
        return None
    if isinstance(task, Pairs):
        return PairedWriter(task, backbone, plan)
    model = backbone.model
    return CausalWriter(
        model, task.template or Template.of(task.tokenizer, eos_ids=model.generation_config.eos_token_id)
    )


def can_write(task: Bound) -> bool:
    """Whether probes can be put to its model (see `writer_of`)."""
    if isinstance(task, Pairs):
        return True
    return task.head.kind == "causal" and (task.template is not None or bool(task.tokenizer.chat_template))


def _vocabulary(tokenizer: Any, family: str) -> str:
    return family + hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


@dataclass(frozen=True)
class CausalWriter:
    """A causal model in eval mode. Prompts are what a user says; scored texts stand by themselves."""

    model: Any
    template: Template
    needs_context = False

    @cached_property
    def tokens(self) -> str:
        return _vocabulary(self.template.tokenizer, "causal")

    @cached_property
    def _backbone(self) -> Backbone:
        return backbone_of(self.model)

    def row(self, context: str, text: str, at: At) -> Encoded:
        ids, offsets = self.template.tokenise([context + text], [None])[0]
        scored = offsets[:, 1] > len(context)
        return scored_from(int(np.argmax(scored)) if scored.any() else len(ids), ids, at)

    def losses(self, rows: Sequence[Encoded]) -> list[NDArray[np.float64]]:
        return target_losses(self._backbone, rows)

    def answer(self, prompts: Sequence[str], most: int) -> list[str]:
        answers = generate(self.model, self._prompts(prompts), stop_ids=self.template.stop_ids, max_tokens=most)
        return [text_of(self.template, answer) for answer in answers]

    def sample(self, requests: Sequence[Request], most: int, seed: int) -> tuple[Encoded, ...]:
        prompts = self._prompts([row.prompt for row in requests])
        warm = Sampling(temperature=1.0)
        # No stop ids: a stop is a token like the others here, and what the model says behind it is cut off below.
        answers = generate(self.model, prompts, stop_ids=frozenset(), max_tokens=most, sampling=warm, seed=seed)
        return tuple(
            scored_from(len(prompt), [*map(int, prompt), *taken], row.at)
            for row, prompt, answer in zip(requests, prompts, answers)
            if (taken := [*_until_stop(answer.ids, self.template.stop_ids)])
        )

    def _prompts(self, prompts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [self.template.prompt([Message("user", prompt)]) for prompt in prompts]


def scored_from(first: int, ids: Sequence[int] | NDArray[Any], at: At) -> Encoded:
    """The ids as a row whose tokens from number `first` on are scored."""
    weights = np.zeros(len(ids), dtype=np.float32)
    weights[first:] = 1.0
    roles = np.full(len(ids), ROLES.index("assistant"), dtype=np.uint8)
    return Encoded(np.asarray(ids, dtype=np.int32), weights, roles, at)


def _until_stop(ids: Sequence[int], stop_ids: frozenset[int]) -> Iterator[int]:
    for token in ids:
        yield token
        if token in stop_ids:
            return


@dataclass(frozen=True)
class PairedWriter:
    """An encoder-decoder in eval mode. Its own generation settings (beams, forced tokens, ...) do not apply here."""

    task: Pairs
    backbone: Paired
    plan: ExecutionPlan
    needs_context = True

    @cached_property
    def tokens(self) -> str:
        return _vocabulary(self.task.tokenizer, "pairs")

    def row(self, context: str, text: str, at: At) -> Encoded:
        (written,) = self.task.tokens.write([text])
        return self.task.encoded(self._read(context), written[: self.task.tokens.limit], at)

    @torch.no_grad()
    def losses(self, rows: Sequence[Encoded]) -> list[NDArray[np.float64]]:
        found = dict[int, NDArray[np.float64]]()
        for group in buckets(rows, self.plan.tokens):
            batch = pad([rows[i] for i in group], self.task.pad_id, self.plan.device)
            losses = self.task.token_losses(self.backbone, batch).double().cpu().numpy()
            counts = [int(np.count_nonzero(rows[i].weights[1:])) for i in group]
            found.update(zip(group, np.split(losses, np.cumsum(counts)[:-1])))
        return [found[index] for index in range(len(rows))]

    def answer(self, prompts: Sequence[str], most: int) -> list[str]:
        nowhere = At("", 0)
        rows = [self.task.encoded(self._read(prompt), [], nowhere) for prompt in prompts]
        with self._plainly(most, sampled=False):
            return [one.text for one in self.task.write(self.backbone, rows, self.plan)]

    def sample(self, requests: Sequence[Request], most: int, seed: int) -> tuple[Encoded, ...]:
        sources = [self._read(row.prompt) for row in requests]
        rows = [self.task.encoded(source, [], row.at) for source, row in zip(sources, requests)]
        with self._plainly(most, sampled=True), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            answers = self.task.written_ids(self.backbone, rows, self.plan)
        return tuple(
            self.task.encoded(source, ids, row.at) for source, row, ids in zip(sources, requests, answers) if ids
        )

    def _read(self, text: str) -> list[int]:
        (source,) = self.task.tokens.read([text])
        return self.task.tokens.cut(source)

    @contextmanager
    def _plainly(self, most: int, *, sampled: bool) -> Iterator[None]:
        """The model without its generation settings: what `generate` is given it fills up from those of the model."""
        model = self.backbone.model
        own = model.generation_config
        ids = {"pad_token_id": self.task.pad_id, "eos_token_id": self.task.tokenizer.eos_token_id}
        drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {}
        model.generation_config = GenerationConfig(
            max_new_tokens=most, num_beams=1, decoder_start_token_id=self.task.start, **ids, **drawn
        )
        try:
            yield
        finally:
            model.generation_config = own
