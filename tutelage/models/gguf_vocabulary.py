"""The tokens of a GGUF file and llama.cpp's kind of each."""

from dataclasses import dataclass

from tutelage.models.gguf_reader import GgufHeader

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens[i]` is the text of token i, `kinds[i]` its kind, and `ids` the way back."""

    tokens: list[str]
    kinds: list[int]
    ids: dict[str, int]


def read_strings(header: GgufHeader, key: str) -> list[str]:
    """The list of strings at `key`."""
    values = header.metadata.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise header.refuse(f"`{key}` is missing or not a list of strings", at=key)
    return [value for value in values if isinstance(value, str)]


def read_vocabulary(header: GgufHeader) -> Vocabulary:
    """The vocabulary of a GGUF file; an empty or repeated token, or kinds that do not fit it, are a ModelError."""
    tokens = read_strings(header, "tokenizer.ggml.tokens")
    ids = {token: number for number, token in enumerate(tokens)}
    if not tokens or len(ids) != len(tokens) or "" in ids:
        raise header.refuse("the vocabulary is empty, or has an empty token or one twice", at="tokenizer.ggml.tokens")
    kinds = header.metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens) or not all(type(kind) is int for kind in kinds):
        raise header.refuse(
            "`tokenizer.ggml.token_type` does not fit the vocabulary", at="tokenizer.ggml.token_type"
        )  # fmt: skip
    return Vocabulary(tokens, [int(kind) for kind in kinds], ids)
