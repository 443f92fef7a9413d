"""Byte-level BPE out of a GGUF file.

GGUF only names the rule that splits text before the merges (`tokenizer.ggml.pre`). transformers' own conversion ignores
that name, so that SmolLM2 would tokenise digits and blank lines differently from how it was trained. Each name that is
accepted here has its rule in PRE_TOKENIZERS and a test against an independent implementation.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tutelage.models.gguf_reader import GgufHeader
from tutelage.models.gguf_vocabulary import Vocabulary, read_strings


def _byte_level() -> pre_tokenizers.PreTokenizer:
    """GPT-2's regular expression, then bytes."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_then_byte_level() -> pre_tokenizers.PreTokenizer:
    """Each numeral (Unicode category N) alone, then GPT-2's regular expression on what lies between."""
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


def _split_then_bytes(pattern: str) -> pre_tokenizers.PreTokenizer:
    """The pieces that `pattern` matches, each as bytes."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _llama3() -> pre_tokenizers.PreTokenizer:
    """Words, up to three numerals together, runs of other signs, runs of space."""
    return _split_then_bytes(WORDS + r"\p{N}{1,3}" + REST)


def _qwen2() -> pre_tokenizers.PreTokenizer:
    """The same with each numeral alone."""
    return _split_then_bytes(WORDS + r"\p{N}" + REST)


PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _byte_level,
    "llama-bpe": _llama3,
    "qwen2": _qwen2,
    "smollm": _digits_then_byte_level,
}
# Other names of the same rules: older converters wrote the first two, the third is Qwen's rule in DeepSeek's distillates.
ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}


@dataclass(frozen=True, slots=True)
class Built:
    """A tokenizer without its added tokens; `adds_bos` is what llama.cpp does where the file does not say."""

    tokenizer: Tokenizer
    adds_bos: bool


def build(header: GgufHeader, vocabulary: Vocabulary, unknown: int | None) -> Built:
    """The byte-level BPE of the file's merges behind the splitting rule that it names."""
    said = str(header.metadata.get("tokenizer.ggml.pre"))
    rule = ALIASES.get(said, said)
    if rule not in PRE_TOKENIZERS:
        raise header.refuse(
            f"its tokenizer splits text by a rule that is not known here: {said[:100]!r}", at="tokenizer.ggml.pre",
            why=f"known: {', '.join(sorted({*PRE_TOKENIZERS, *ALIASES}))}; "
            "a guess would tokenise differently from how it was trained",
        )  # fmt: skip
    if header.metadata.get("tokenizer.ggml.add_space_prefix", False):
        raise header.refuse(
            "its tokenizer puts a space before the text, which byte-level BPE here does not",
            at="tokenizer.ggml.add_space_prefix",
        )
    # llama.cpp lets a piece that is a token itself skip the merges with Llama 3's rule only.
    llama3 = rule == "llama-bpe"
    bpe = models.BPE(vocab=vocabulary.ids, merges=_merges(header, vocabulary.ids), ignore_merges=llama3)
    tokenizer = Tokenizer(bpe)
    if rule == "qwen2":
        tokenizer.normalizer = normalizers.NFC()  # Qwen's own tokenizer composes accents; llama.cpp leaves that out
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[rule]()
    tokenizer.decoder = decoders.ByteLevel()
    return Built(tokenizer, adds_bos=llama3)


def _merges(header: GgufHeader, ids: dict[str, int]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for index, text in enumerate(read_strings(header, "tokenizer.ggml.merges")):
        left, _, right = text.partition(" ")
        if not {left, right, left + right} <= ids.keys():
            raise header.refuse(
                f"merge {index} is not of tokens of the vocabulary", at="tokenizer.ggml.merges", why=text[:200]
            )
        merges.append((left, right))
    return merges
