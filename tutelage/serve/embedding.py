"""`POST /v1/embeddings`: vectors of texts, in OpenAI's shape."""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from tutelage.encode.tokens import Tokens
from tutelage.methods.opening import Located
from tutelage.models.encoder import Pooling, load_encoder, pooling_of
from tutelage.models.safety import read_object
from tutelage.serve.schema import Ids
from tutelage.serve.task_shapes import MOST_INPUTS, Given, Outcome, TaskRequest, TaskResponse, too_long
from tutelage.tasks.opening import open_for_task

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Row = tuple[str | list[int], bool, str]  # a text or its ids, whether it may be cut, the encoding


class EmbeddingRequest(TaskRequest):
    """`POST /v1/embeddings`. Token ids are taken as they are: with the special tokens that the model expects."""

    input: Given | Ids | Annotated[list[Given] | list[Ids], Field(min_length=1, max_length=MOST_INPUTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = Field(None, description="not supported: the model gives all it has")
    truncate: bool = Field(False, description="cut inputs that are too long; else they are refused")

    def rows(self) -> list[Row]:
        """The inputs, one by one."""
        given: Any = self.input
        single = isinstance(given, str) or isinstance(given[0], int)
        return [(item, self.truncate, self.encoding_format) for item in ([given] if single else given)]


class Embedding(BaseModel):
    """One input's vector: numbers, or little-endian float32 as base64."""

    index: int
    object: Literal["embedding"]
    embedding: list[float] | str


class EmbeddingResponse(TaskResponse):
    """The answer of `POST /v1/embeddings`."""

    data: list[Embedding]


class Embedder:
    """An encoder's body with its pooling."""

    about = "makes vectors of texts"
    route = "/v1/embeddings"

    def __init__(self, body: Any, tokens: Tokens, pooling: Pooling) -> None:
        self.body = body
        self.tokens = tokens
        self.pooling = pooling
        self.context: int | None = tokens.limit
        self.labels: list[str] = []

    def compute(self, rows: Sequence[Row]) -> list[Outcome]:
        """Each input's item; inputs of like length are computed together."""
        ids = [self._ids(given, may_cut) for given, may_cut, _ in rows]
        fitting = [number for number, found in enumerate(ids) if not isinstance(found, str)]
        vectors = dict(zip(fitting, self.vectors([found for found in ids if not isinstance(found, str)])))
        return [
            Outcome(0, None, found)
            if isinstance(found, str)
            else Outcome(len(found), {"object": "embedding", "embedding": _written(vectors[number], encoding)})
            for number, (found, (_, _, encoding)) in enumerate(zip(ids, rows))
        ]

    def _ids(self, given: str | list[int], may_cut: bool) -> list[int] | str:
        """The tokens of an input, or why there are none."""
        if isinstance(given, list):
            size = int(self.body.config.vocab_size)
            if max(given) >= size:
                return f"holds the token {max(given)}, and this model has {size}"
            return given if len(given) <= self.tokens.limit else too_long(self.tokens.limit)
        found: list[int] = self.tokens.encode([(given,)])[0].ids
        if len(found) <= self.tokens.limit:
            return found
        if may_cut:
            return list(self.tokens.cut((given,)).ids)
        return too_long(self.tokens.limit, "shorten it, or send `truncate: true`")

    def vectors(self, rows: Sequence[list[int]], budget: int = 2048) -> list[NDArray[np.float32]]:
        """A vector for each row of ids; at most `budget` tokens with their padding are computed at a time."""
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        result: dict[int, NDArray[np.float32]] = {}
        while order:
            count = next((n for n in range(1, len(order)) if (n + 1) * len(rows[order[n]]) > budget), len(order))
            chosen, order = order[:count], order[count:]
            result |= dict(zip(chosen, self._computed([rows[number] for number in chosen])))
        return [result[number] for number in range(len(rows))]

    def _computed(self, rows: Sequence[list[int]]) -> NDArray[np.float32]:
        longest = max(len(row) for row in rows)
        pad = int(getattr(self.body.config, "pad_token_id", None) or 0)
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=self.body.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.body.device)
        with torch.inference_mode():
            states = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled: NDArray[np.float32] = self.pooling.pool(states.float(), mask).cpu().numpy()
        return pooled


def _written(vector: NDArray[np.float32], encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    numbers: list[float] = vector.tolist()
    return numbers


def open_embedder(place: Located, precision: str) -> Embedder:
    """The encoder of a folder, or the one that a run went on training on text."""
    config = read_object(place.model / "config.json")
    pooling = pooling_of(place.model)
    if place.adapter is not None:  # of a run that went on training on text
        opened = open_for_task(str(place.run), precision=precision)
        opened.backbone.model.set_attn_implementation("sdpa")  # rows are padded here, not packed
        body, tokenizer = opened.backbone.model.base_model, opened.task.tokenizer
    else:
        body, tokenizer = load_encoder(place.model)
        body = body.to(DTYPES[precision])
    return Embedder(body, Tokens.of(tokenizer, config, pooling.most_tokens), pooling)
