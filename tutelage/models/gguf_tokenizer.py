"""The tokenizer of a GGUF file as a tokenizer.json that splits text exactly as the original does.

What both kinds of GGUF tokenizers share is here: vocabulary, special ids, chat template. How text becomes tokens is in
gguf_bpe.py ("gpt2": byte-level BPE) and gguf_sentencepiece.py ("llama").
"""

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, processors

from tutelage.models import gguf_bpe, gguf_sentencepiece
from tutelage.models.gguf_reader import GgufHeader
from tutelage.models.gguf_vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary, read_vocabulary

MAX_TEMPLATE = 65_536  # bytes; the same limit as safety.check_folder
KINDS = {"gpt2": gguf_bpe.build, "llama": gguf_sentencepiece.build}
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
STOPS = ("eos", "eot", "eom")  # end of text, of turn, of message: what ends an answer


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """What the file says of its tokenizer. `settings` is the content of tokenizer_config.json."""

    tokenizer: Tokenizer
    settings: dict[str, object]
    special: dict[str, int]  # "bos", "eos", "unk", "pad" → id, those that the file names
    stops: tuple[int, ...]  # the ids that end an answer, the end of text first
    chat_template: str | None


def read_tokenizer(header: GgufHeader, context: int) -> GgufTokenizer:
    """The tokenizer of a GGUF file whose model reads `context` tokens; an unknown kind or rule is a ModelError."""
    kind = str(header.metadata.get("tokenizer.ggml.model"))
    if kind not in KINDS:
        raise header.refuse(
            f"GGUF tokenizers of the kind {kind[:100]!r} are not read", at="tokenizer.ggml.model",
            why="read are `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE)",
        )  # fmt: skip
    vocabulary = read_vocabulary(header)
    special = {name: id for name, key in SPECIAL.items() if (id := _id(header, key, vocabulary)) is not None}
    if "eos" not in special:
        raise header.refuse("the file names no end-of-text token", at="tokenizer.ggml.eos_token_id")
    special = {"pad": special["eos"], **special}
    built = KINDS[kind](header, vocabulary, special.get("unk"))
    tokenizer, tokens = built.tokenizer, vocabulary.tokens
    added = {
        number: AddedToken(tokens[number], special=kind != USER_DEFINED, normalized=False)
        for number, kind in enumerate(vocabulary.kinds)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    }
    tokenizer.add_tokens(list(added.values()))
    _put_around(header, tokenizer, vocabulary, special, built.adds_bos)
    settings: dict[str, object] = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(number): _as_json(token) for number, token in added.items()},
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": tokens[number] for name, number in special.items()},
    }
    stops = [id for key in STOPS if (id := _id(header, key, vocabulary)) is not None]
    return GgufTokenizer(tokenizer, settings, special, tuple(dict.fromkeys(stops)), _template(header))


def _as_json(token: AddedToken) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": token.content, **flags, "special": token.special}


def _id(header: GgufHeader, name: str, vocabulary: Vocabulary) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    number = header.metadata.get(key)
    if number is None:
        return None
    if type(number) is not int or not 0 <= number < len(vocabulary.tokens):
        raise header.refuse(f"the {name} token lies outside the vocabulary", at=key, why=repr(number)[:100])
    return number


def _template(header: GgufHeader) -> str | None:
    template = header.metadata.get("tokenizer.chat_template")
    if template is None:
        return None
    if not isinstance(template, str) or len(template.encode()) > MAX_TEMPLATE:
        raise header.refuse(
            "the chat template is not text, or too long",
            at="tokenizer.chat_template",
            why=f"at most {MAX_TEMPLATE} bytes",
        )
    return template


def _put_around(
    header: GgufHeader, tokenizer: Tokenizer, vocabulary: Vocabulary, special: dict[str, int], adds_bos: bool
) -> None:
    """Begin- and end-of-text tokens around a text, where the file (or, silent, llama.cpp for its kind) adds them."""
    wanted = {"bos": adds_bos, "eos": False}
    for name in wanted:
        said = header.metadata.get(f"tokenizer.ggml.add_{name}_token", wanted[name])
        wanted[name] = bool(said)
    if wanted["bos"] and "bos" not in special:
        raise header.refuse(
            "the tokenizer adds a begin-of-text token that the file does not name", at="tokenizer.ggml.bos_token_id"
        )
    around = {name: vocabulary.tokens[special[name]] for name in wanted if wanted[name]}
    if not around:
        return
    before, after = around.get("bos", ""), around.get("eos", "")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[token for token in (before, "$A", after) if token],
        pair=[token for token in (before, "$A", "$B:1", after) if token],
        special_tokens=[(token, special[name]) for name, token in around.items()],
    )
