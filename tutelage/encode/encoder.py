"""Conversations to columns of tokens, fast: the results are those of `Template.encode`, the plain reference.

Texts come from skeletons, tokens from distinct pieces, and while the tokenizer's threads (which hold no Python lock)
encode one chunk, the next one is rendered and the one before laid out.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding

from tutelage.data.types import Conversation
from tutelage.encode.pieces import Cut, Pieces, Tokens, independent
from tutelage.encode.rows import Columns, pack
from tutelage.encode.skeleton import Skeleton, learn
from tutelage.encode.template import GENERATION_MARKER, Rendered, Template, Turn, place_texts, trained_turns
from tutelage.encode.types import Encoded
from tutelage.errors import MAX_PROBLEMS, DataError, Problem

CHUNK = 512  # rows whose problems are raised together, as in Template.encode


@dataclass(frozen=True, slots=True)
class Cutting:
    """A chunk of rendered rows; `cuts[i]` is None where row i must be encoded the plain way."""

    rendered: list[Rendered]
    cuts: list[Cut | None]
    encodings: "Future[list[Encoding]]"


class Encoder:
    """A template with what has been learnt of it."""

    def __init__(self, template: Template, train_on: str = "all") -> None:
        self.template, self.train_on = template, train_on
        self.independent = independent(template)
        self.learns = not GENERATION_MARKER.search(template.text)  # their spans are known to the plain rendering only
        self.special = template.tokenizer.special_tokens_map
        self.skeletons: dict[object, Skeleton | None] = {}

    def columns(self, rows: Iterable[Conversation]) -> Iterator[Columns]:
        """The rows in chunks of columns; a row has several where the template rewrites history."""
        with ThreadPoolExecutor(1) as threads:
            before: Cutting | None = None
            for chunk in _chunks(rows):
                cutting = self._cut(self._render_all(chunk), threads)
                if before:
                    yield self._laid_out(before)
                before = cutting
            if before:
                yield self._laid_out(before)

    # Rendering

    def _render_all(self, rows: Sequence[Conversation]) -> list[Rendered]:
        rendered: list[Rendered] = []
        problems: list[Problem] = []
        for row in rows:
            try:
                rendered += self.render(row)
            except DataError as error:
                problems += error.problems
                if len(problems) >= MAX_PROBLEMS:
                    break
        if problems:
            raise DataError(problems)
        return rendered

    def render(self, row: Conversation) -> list[Rendered]:
        """As `Template.render` does, from a skeleton where there is one for the row."""
        contents = [message.content for message in row.messages]
        plain = not row.tools and not any(m.tool_calls or m.name or m.tool_call_id for m in row.messages)
        if plain and self.learns and not self.template.may_hold_control(contents):
            trained = trained_turns(row, self.train_on)
            skeleton = self._skeleton([message.role for message in row.messages], trained)
            filled = skeleton.fill(contents) if skeleton else None
            if skeleton and filled:
                text, turns = filled
                spans = place_texts(text, row.messages, skeleton.leads)
                return [Rendered(
                    text, tuple(Turn(*turn) for turn in turns), tuple(turn[0] for turn in turns), spans, row.at, None
                )]  # fmt: skip
        return self.template.render(row, self.train_on)

    def _skeleton(self, roles: list[str], trained: list[tuple[int, float]]) -> Skeleton | None:
        key = (tuple(roles), tuple(trained))
        if key not in self.skeletons:
            empty = [{"role": role, "content": ""} for role in roles]
            self.skeletons[key] = learn(
                self.template.text, self.special, roles, trained, self.template.leads_of(empty, [])
            )
        return self.skeletons[key]

    # Tokens

    def _cut(self, rendered: list[Rendered], threads: ThreadPoolExecutor) -> Cutting:
        if not self.independent:
            return Cutting(rendered, [None] * len(rendered), threads.submit(lambda: []))
        pieces = Pieces(self.template)
        cuts = [None if item.guard else pieces.cut(item.text, _edges(item)) for item in rendered]
        encode = self.template.backend.encode_batch_fast  # as encode_batch, without offsets
        return Cutting(rendered, cuts, threads.submit(encode, list(pieces.numbers), add_special_tokens=False))

    def _laid_out(self, chunk: Cutting) -> Columns:
        tokens = Tokens(self.template, chunk.encodings.result())
        if not all(
            tokens.begins(cut, end) for item, cut in zip(chunk.rendered, chunk.cuts) if cut for end in item.prompts
        ):
            return pack(self.template.weighted(chunk.rendered))  # raises, with every row of the chunk
        plain = iter(self.template.weighted([item for item, cut in zip(chunk.rendered, chunk.cuts) if cut is None]))
        if not any(chunk.cuts):
            return pack(plain)
        return self._joined(chunk, tokens, plain)

    def _joined(self, chunk: Cutting, tokens: Tokens, plain: Iterator[Encoded]) -> Columns:
        ids: list[int] = []
        starts = [0]
        weights: list[tuple[int, int, float]] = []
        roles: list[tuple[int, int, int]] = []
        copied: list[tuple[int, Encoded]] = []
        stop_ids = self.template.stop_ids
        for item, cut in zip(chunk.rendered, chunk.cuts):
            if cut is None:
                copied.append((len(ids), next(plain)))
                ids += copied[-1][1].ids.tolist()
            else:
                places = tokens.of(cut, ids)
                for start, stop, role in item.spans:
                    roles.append((tokens.at(cut, places, start)[0], tokens.at(cut, places, stop)[1], role))
                for turn in item.turns:
                    a, b = tokens.at(cut, places, turn.start)[0], tokens.at(cut, places, turn.stop)[1]
                    # what a template writes behind the end-of-turn token is never generated
                    last = next((i for i in range(b - 1, a - 1, -1) if ids[i] in stop_ids), b - 1)
                    weights.append((a, last + 1, turn.weight))
            starts.append(len(ids))
        names = tuple(dict.fromkeys(item.at.source for item in chunk.rendered))
        number = {name: i for i, name in enumerate(names)}
        made = Columns(
            ids=np.array(ids, dtype=np.int32), weights=np.zeros(len(ids), np.float32), roles=np.zeros(len(ids), np.uint8),
            starts=np.array(starts, dtype=np.int64),
            sources=np.array([number[item.at.source] for item in chunk.rendered], dtype=np.int32),
            rows=np.array([item.at.row for item in chunk.rendered], dtype=np.int64), names=names,
        )  # fmt: skip
        for a, b, role in roles:
            made.roles[a:b] = role
        for a, b, weight in weights:
            made.weights[a:b] = weight
        for first, row in copied:
            made.weights[first : first + len(row.ids)] = row.weights
            made.roles[first : first + len(row.ids)] = row.roles
        return made


def _chunks(rows: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    chunk: list[Conversation] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _edges(item: Rendered) -> set[int]:
    """The places of a rendered row whose tokens are asked for."""
    inner = {edge for start, stop, _ in item.spans for edge in (start, stop)}
    return inner | {edge for turn in item.turns for edge in (turn.start, turn.stop)} | set(item.prompts)
