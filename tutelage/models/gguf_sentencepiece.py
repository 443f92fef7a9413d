"""SentencePiece's BPE out of a GGUF file (Llama 2, Mistral, Gemma): scores in place of merges, bytes for what is unknown.

SentencePiece joins, again and again, the two neighbours whose joined text is the token with the best score. A merge list
says the same thing once it holds every pair of tokens that makes a token, best score first.
"""

import math

from tokenizers import Tokenizer, decoders, models, normalizers

from tutelage.models.gguf_bpe import Built
from tutelage.models.gguf_reader import GgufHeader
from tutelage.models.gguf_vocabulary import BYTE, NORMAL, USER_DEFINED, Vocabulary

SPACE = "▁"
LONGEST = 256  # characters of a token that is made by merges; every place in it is tried as a seam
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def build(header: GgufHeader, vocabulary: Vocabulary, unknown: int | None) -> Built:
    """The tokenizer that joins the file's pieces by their scores."""
    if header.metadata.get("tokenizer.ggml.precompiled_charsmap"):
        raise header.refuse(
            "its tokenizer rewrites characters by a table that is not read", at="tokenizer.ggml.precompiled_charsmap"
        )
    if unknown is None or not all(
        (number := vocabulary.ids.get(token)) is not None and vocabulary.kinds[number] == BYTE for token in BYTES
    ):
        raise header.refuse(
            "its tokenizer has no unknown token, or not a token for every byte", at="tokenizer.ggml.token_type",
            why="SentencePiece's BPE needs both for characters that it never saw",
        )  # fmt: skip
    prefix = header.metadata.get("tokenizer.ggml.add_space_prefix", True) is not False
    bpe = models.BPE(
        vocab=vocabulary.ids, merges=_merges(header, vocabulary), unk_token=vocabulary.tokens[unknown], fuse_unk=True,
        byte_fallback=True,
    )  # fmt: skip
    tokenizer = Tokenizer(bpe)
    marked = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), marked]) if prefix else marked
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return Built(tokenizer, adds_bos=True)


def _scores(header: GgufHeader, vocabulary: Vocabulary) -> list[float]:
    key = "tokenizer.ggml.scores"
    scores = header.metadata.get(key)
    if not isinstance(scores, list) or len(scores) != len(vocabulary.tokens):
        raise header.refuse(f"`{key}` is missing or does not fit the vocabulary", at=key)
    numbers = [float(score) for score in scores if isinstance(score, float) and math.isfinite(score)]
    if len(numbers) != len(scores):
        raise header.refuse(f"`{key}` holds what is not a number", at=key)
    return numbers


def _merges(header: GgufHeader, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every pair of tokens whose joined text is a token, the best score first, then as they stand in the vocabulary."""
    scores, ids = _scores(header, vocabulary), vocabulary.ids
    found: list[tuple[float, int, int, int]] = []
    for number, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds)):
        if kind not in (NORMAL, USER_DEFINED):
            continue
        if len(token) > LONGEST:
            raise header.refuse(
                f"token {number} is {len(token)} characters long", at="tokenizer.ggml.tokens", why=f"at most {LONGEST}"
            )
        for seam in range(1, len(token)):
            left, right = ids.get(token[:seam]), ids.get(token[seam:])
            if left is not None and right is not None:
                found.append((-scores[number], number, left, right))
    if len({score for score, *_ in found}) < min(2, len(found)):
        raise header.refuse(
            "all pieces of its tokenizer have one score", at="tokenizer.ggml.scores",
            why="nothing says which are joined first, so that no text can be tokenised as it was in training",
        )  # fmt: skip
    found.sort()
    return [(vocabulary.tokens[left], vocabulary.tokens[right]) for *_, left, right in found]
