"""The two sides of a pair as tokens: what an encoder reads and what a decoder learns to write.

Most models have one tokenizer for both. Marian's (Junczys-Dowmunt et al. 2018, arXiv 1804.00344) has a SentencePiece model for
each language. Control-token text in the data is ordinary text for both; a language code in front of a Marian source
(`>>fra<<`) is a token, as its models expect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tutelage.encode.tokens import Tokens, context


class PairTokens(Protocol):
    """A tokenizer for sources and targets. `limit` is the longest source that both recipe and model allow, in tokens."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, as it is saved with it."""
        ...

    @property
    def limit(self) -> int: ...

    def read(self, sources: Sequence[str]) -> list[list[int]]:
        """The ids of each source, with the special tokens that the encoder expects."""
        ...

    def write(self, targets: Sequence[str]) -> list[list[int]]:
        """The ids of each target, with the token that ends it."""
        ...

    def cut(self, ids: list[int]) -> list[int]:
        """The ids of a source, if need be shortened to `limit`; the special tokens behind it stay."""
        ...

    def shown(self, source: list[int]) -> str:
        """The text of a source's ids."""
        ...


def pair_tokens(tokenizer: Any, config: dict[str, Any], max_tokens: int) -> PairTokens:
    """The tokenizer of an encoder-decoder with this config.json."""
    if hasattr(tokenizer, "backend_tokenizer"):
        return Shared(Tokens.of(tokenizer, config, max_tokens))
    return Marian(tokenizer, min(max_tokens, context(config)))


@dataclass(frozen=True)
class Shared:
    """One tokenizer for both sides."""

    tokens: Tokens

    @property
    def tokenizer(self) -> Any:
        return self.tokens.tokenizer

    @property
    def limit(self) -> int:
        return self.tokens.limit

    def read(self, sources: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokens.encode([(text,) for text in sources])]

    def write(self, targets: Sequence[str]) -> list[list[int]]:
        return self.read(targets)

    def cut(self, ids: list[int]) -> list[int]:
        if len(ids) <= self.limit:
            return ids
        end = self.tokens.frame()[1]
        return [*ids[: self.limit - len(end)], *end]

    def shown(self, source: list[int]) -> str:
        return str(self.tokenizer.decode(source))


@dataclass(frozen=True)
class Marian:
    """transformers' MarianTokenizer, which switches between its two sides."""

    tokenizer: Any
    limit: int

    def read(self, sources: Sequence[str]) -> list[list[int]]:
        return self._ids(text=list(sources)) if sources else []

    def write(self, targets: Sequence[str]) -> list[list[int]]:
        return self._ids(text_target=list(targets)) if targets else []

    def _ids(self, **texts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(**texts, split_special_tokens=True, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def cut(self, ids: list[int]) -> list[int]:
        return ids if len(ids) <= self.limit else [*ids[: self.limit - 1], self.tokenizer.eos_token_id]

    def shown(self, source: list[int]) -> str:
        pieces = {number: piece for piece, number in self.tokenizer.encoder.items()}
        return str(self.tokenizer.spm_source.decode_pieces([pieces[number] for number in source]))
