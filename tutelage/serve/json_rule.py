"""Answers that must be JSON: llguidance (extra `json`) tells at each token which ones may come."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import MissingInputError, need
from tutelage.generate.streams import Allow
from tutelage.serve.problems import ApiError
from tutelage.serve.schema import ResponseFormat
from tutelage.serve.served import Served

ANY_OBJECT: dict[str, Any] = {"type": "object"}


class Rule:
    """Follows one answer through a grammar and forbids what it does not go on with. An engine that has a way of its own takes
    the schema."""

    def __init__(self, library: Any, tokenizer: Any, grammar: str, schema: dict[str, Any]) -> None:
        self.schema = schema
        self.matcher = library.LLMatcher(tokenizer, grammar)
        self.read = 0

    def __call__(self, answer: Sequence[int], logits: Tensor) -> Tensor:
        """The logits with -inf for every token that may not follow `answer`."""
        self.matcher.consume_tokens(list(answer[self.read :]))
        self.read = len(answer)
        bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)].astype(bool)
        mask = torch.zeros(len(logits), dtype=torch.bool)
        mask[: len(allowed)] = torch.from_numpy(allowed)
        return logits.masked_fill(~mask, -torch.inf)


def json_rule(model: Served, wanted: ResponseFormat | None) -> Callable[[], Allow] | None:
    """What makes a rule for each answer of a request, or None for plain text; an ApiError where there is no such rule."""
    if wanted is None or wanted.type == "text":
        return None
    schema = wanted.json_schema.schema_ if wanted.json_schema is not None else ANY_OBJECT
    try:
        library, tokenizer = need("llguidance", extra="json"), _tokenizer(model.template)
    except MissingInputError as error:
        raise ApiError(400, str(error), code="not_supported", param="response_format") from error
    try:
        grammar = library.LLMatcher.grammar_from_json_schema(schema)
        problem = library.LLMatcher.validate_grammar(grammar, tokenizer)
    except Exception as error:  # the Rust side raises bare errors on schemas that it cannot read
        problem = str(error)
    if problem:
        raise ApiError(
            400, f"This schema cannot be followed: {problem[:300]}", code="invalid_value", param="response_format"
        )
    return lambda: Rule(library, tokenizer, grammar, schema)


@functools.lru_cache(maxsize=8)
def _tokenizer_of(text: str, stop_ids: tuple[int, ...]) -> Any:
    library = need("llguidance", extra="json")
    return library.LLTokenizer(text, eos_token=list(stop_ids))


def _tokenizer(template: Any) -> Any:
    return _tokenizer_of(template.backend.to_str(), tuple(sorted(template.stop_ids)))
