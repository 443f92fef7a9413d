"""Plain texts to tokens, as encoders and models with a head read them: no chat template, the tokenizer's own frame.

Control-token text in the data is encoded as ordinary text, and the truncation and padding that a tokenizer.json may ask
for are off.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from tutelage.data.types import At, Dropped
from tutelage.encode.contract import Fitted
from tutelage.encode.template import ROLES
from tutelage.encode.types import Encoded, Targets

TEMPLATE, USER = ROLES.index("template"), ROLES.index("user")
OFFSET_FAMILIES = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
    "xmod",
    "roberta-prelayernorm",
)
Text = tuple[str] | tuple[str, str]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer without template. `limit` is the longest row that both recipe and model allow."""

    tokenizer: Any
    backend: Tokenizer = field(repr=False)
    typed: bool  # the model has token types
    limit: int
    causal: bool = False  # the model reads from left to right

    @classmethod
    def of(cls, tokenizer: Any, config: dict[str, Any], max_tokens: int, *, causal: bool = False) -> "Tokens":
        """The tokenizer for a model with this config.json."""
        backend = copy.deepcopy(tokenizer.backend_tokenizer)
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        return cls(
            tokenizer, backend, (config.get("type_vocab_size") or 0) > 1, min(max_tokens, context(config)), causal
        )

    def encode(self, texts: Sequence[Text]) -> list[Encoding]:
        """Each text, or pair of texts, with the special tokens that the model expects around it."""
        return list(self.backend.encode_batch([t[0] if len(t) == 1 else t for t in map(self.joined, texts)]))

    @property
    def spaced(self) -> bool:
        """Whether the tokenizer writes the space before a word into the word's own token."""
        return (
            self.backend.encode("a", add_special_tokens=False).ids
            != self.backend.encode(" a", add_special_tokens=False).ids
        )

    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and behind a text."""
        encoding = self.backend.encode("a")
        special = np.asarray(encoding.special_tokens_mask, dtype=bool)
        text = np.flatnonzero(~special)
        return encoding.ids[: text[0]], encoding.ids[text[-1] + 1 :]

    def pair_frame(self) -> tuple[list[int], list[int], list[int]]:
        """The special tokens before the first text of a pair, between the two, and behind the second."""
        lead, behind = self.frame()
        encoding = self.backend.encode("a", "a")
        special = np.flatnonzero(np.asarray(encoding.special_tokens_mask, dtype=bool)).tolist()
        inner = [encoding.ids[i] for i in special[len(lead) : len(special) - len(behind)]]
        if not inner:  # a decoder's tokenizer puts nothing between: a blank line does
            inner = self.backend.encode("\n\n", add_special_tokens=False).ids
        return lead, inner, behind

    def joined(self, text: Text) -> Text:
        """A pair as one text where the tokenizer puts nothing between two."""
        if len(text) == 1 or self.backend.num_special_tokens_to_add(True) > self.backend.num_special_tokens_to_add(
            False
        ):
            return text
        return (f"{text[0]}\n\n{text[1]}",)

    def cut(self, text: Text) -> Encoding:
        """The text shortened to `limit` tokens, the longer one of a pair first."""
        shorter = copy.deepcopy(self.backend)
        shorter.enable_truncation(self.limit, strategy="longest_first")
        return shorter.encode(*self.joined(text))

    def row(self, encoding: Encoding, at: At, targets: Targets, *, cut: bool = False) -> Encoded:
        """An encoding as a row; the positions that are scored are marked."""
        ids = np.asarray(encoding.ids, dtype=np.int32)
        weights = np.zeros(len(ids), dtype=np.float32)
        weights[targets.sources] = 1.0
        roles = np.where(np.asarray(encoding.special_tokens_mask, dtype=bool), TEMPLATE, USER).astype(np.uint8)
        types = np.asarray(encoding.type_ids, dtype=np.uint8) if self.typed else None
        return Encoded(ids, weights, roles, at, cut, targets, types)

    def fit(
        self, texts: Sequence[Text], places: Sequence[At], over_length: str, targets: Callable[[int, Encoding], Targets]
    ) -> Fitted:
        """The texts as rows, each of at most `limit` tokens; longer ones are dropped or cut, as the recipe says."""
        rows: list[Encoded] = []
        dropped: list[Dropped] = []
        long = 0
        for index, (text, at, encoding) in enumerate(zip(texts, places, self.encode(texts))):
            over = len(encoding.ids) > self.limit
            long += over
            if over and over_length == "drop":
                dropped.append(Dropped("over_length", at, f"{len(encoding.ids)} tokens, at most {self.limit} fit"))
                continue
            fitting = self.cut(text) if over else encoding
            rows.append(self.row(fitting, at, targets(index, fitting), cut=over))
        return Fitted(tuple(rows), tuple(dropped), long, long - len(dropped), len(texts))


def context(config: dict[str, Any]) -> int:
    """The longest row in tokens that a model with this config.json reads."""
    most = config.get("max_position_embeddings") or config.get("n_positions") or config.get("n_ctx")
    if not isinstance(most, int):
        return 1 << 30
    offset = (config.get("pad_token_id") or 0) + 1 if config.get("model_type") in OFFSET_FAMILIES else 0
    return most - offset


def targets_of(sources: Sequence[int], labels: NDArray[Any], weights: Sequence[float]) -> Targets:
    """Targets from plain lists."""
    return Targets(np.asarray(sources, dtype=np.int32), labels, np.asarray(weights, dtype=np.float32))
