"""The tokenizer of a GGUF file as a tokenizer.json that splits text exactly as the original does.

GGUF only names the rule that splits text before the merges (`tokenizer.ggml.pre`). transformers' own conversion ignores
that name, so that SmolLM2 would tokenise digits and blank lines differently from how it was trained. Each name that is
accepted here has its rule in PRE_TOKENIZERS and a test against an independent implementation.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from tutelage.errors import ModelError
from tutelage.models.gguf_reader import GgufHeader, Value

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # of llama.cpp's token types


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


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """What the file says of its tokenizer. `settings` is the content of tokenizer_config.json."""

    tokenizer: Tokenizer
    settings: dict[str, object]
    special: dict[str, int]  # "bos", "eos", "unk", "pad" → id, those that the file names
    chat_template: str | None


def read_tokenizer(header: GgufHeader, context: int) -> GgufTokenizer:
    """The tokenizer of a GGUF file whose model reads `context` tokens; an unknown kind or rule is a ModelError."""
    tokens, kinds = _vocabulary(header)
    rule = header.metadata.get("tokenizer.ggml.pre")
    if rule not in PRE_TOKENIZERS:
        raise _refused(header, f"its tokenizer splits text by a rule that is not known here: {str(rule)[:100]!r}")
    if header.metadata.get("tokenizer.ggml.add_space_prefix", False):
        raise _refused(header, "its tokenizer puts a space before the text, which is not supported")
    ids = {token: number for number, token in enumerate(tokens)}
    # llama.cpp lets a piece that is a token itself skip the merges with Llama 3's rule only.
    bpe = models.BPE(vocab=ids, merges=_merges(header, ids), ignore_merges=rule == "llama-bpe")
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[rule]()
    tokenizer.decoder = decoders.ByteLevel()
    added = {number: kind for number, kind in enumerate(kinds) if kind in (UNKNOWN, CONTROL, USER_DEFINED)}
    for number, kind in added.items():
        tokenizer.add_tokens([_added(tokens[number], kind)])
    special = _special(header, len(tokens))
    if header.metadata.get("tokenizer.ggml.add_bos_token", False):
        _put_bos_first(header, tokenizer, tokens, special)
    settings: dict[str, object] = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(number): _as_json(tokens[number], kind) for number, kind in added.items()},
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": tokens[number] for name, number in special.items()},
    }
    template = header.metadata.get("tokenizer.chat_template")
    return GgufTokenizer(tokenizer, settings, special, template if isinstance(template, str) else None)


def _refused(header: GgufHeader, what: str) -> ModelError:
    return ModelError(
        what,
        where=str(header.path),
        why=f"known: {', '.join(sorted(PRE_TOKENIZERS))}; a guess would tokenise differently from how it was trained",
        fix="name the model's safetensors folder or hub id instead",
    )


def _strings(header: GgufHeader, key: str) -> list[str]:
    values = header.metadata.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ModelError(f"`{key}` is missing or not a list of strings", where=str(header.path), fix="fetch it again")
    return [value for value in values if isinstance(value, str)]


def _vocabulary(header: GgufHeader) -> tuple[list[str], list[Value]]:
    if header.metadata.get("tokenizer.ggml.model") != "gpt2":
        found = str(header.metadata.get("tokenizer.ggml.model"))[:100]
        raise ModelError(
            "only byte-level BPE tokenizers are read from GGUF",
            where=str(header.path),
            why=f"tokenizer.ggml.model is {found!r}",
            fix="name the model's safetensors folder or hub id instead",
        )
    tokens = _strings(header, "tokenizer.ggml.tokens")
    if len(set(tokens)) != len(tokens) or "" in tokens:
        raise ModelError("the vocabulary has an empty token or one token twice", where=str(header.path))
    kinds = header.metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise ModelError("`tokenizer.ggml.token_type` does not fit the vocabulary", where=str(header.path))
    return tokens, list(kinds)


def _merges(header: GgufHeader, ids: dict[str, int]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for index, text in enumerate(_strings(header, "tokenizer.ggml.merges")):
        left, _, right = text.partition(" ")
        if not {left, right, left + right} <= ids.keys():
            raise ModelError(
                f"merge {index} is not of tokens of the vocabulary", where=str(header.path), why=text[:200]
            )
        merges.append((left, right))
    return merges


def _added(token: str, kind: object) -> AddedToken:
    return AddedToken(token, special=kind != USER_DEFINED, normalized=False)


def _as_json(token: str, kind: object) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": token, **flags, "special": kind != USER_DEFINED}


def _special(header: GgufHeader, vocabulary: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = header.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if number is None:
            continue
        if type(number) is not int or not 0 <= number < vocabulary:
            raise ModelError(f"the {name} token lies outside the vocabulary", where=str(header.path), why=repr(number))
        found[name] = number
    if "eos" not in found:
        raise ModelError("the file names no end-of-text token", where=str(header.path))
    return {"pad": found["eos"], **found}


def _put_bos_first(header: GgufHeader, tokenizer: Tokenizer, tokens: list[str], special: dict[str, int]) -> None:
    if "bos" not in special:
        raise ModelError("the tokenizer adds a begin-of-text token that the file does not name", where=str(header.path))
    bos = tokens[special["bos"]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 $B:1", special_tokens=[(bos, special["bos"])]
    )
