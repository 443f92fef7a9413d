"""A tokenizer.json as GGUF metadata: vocabulary, merges or scores, kinds of tokens, special ids, splitting rule."""

import json
from typing import Any

from gguf import GGUFWriter
from tokenizers import Tokenizer

from tutelage.encode.template import Template
from tutelage.errors import ModelError
from tutelage.models.gguf_bpe import PRE_TOKENIZERS
from tutelage.models.gguf_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

SPACE = "▁"
NEVER = -1e6  # the score of pieces that no merge makes: anything else is merged first


def write_tokens(writer: GGUFWriter, template: Template, rows: int) -> None:
    """Everything llama.cpp needs to tokenise as `template`'s tokenizer does, for an embedding of `rows` rows."""
    value = json.loads(template.backend.to_str())
    model = value["model"]
    if model.get("type") != "BPE":
        raise _refuse(f"its tokenizer is a {model.get('type')} one", "byte-level BPE and SentencePiece BPE are written")
    tokens, kinds = _vocabulary(template.backend, value, rows)
    sentencepiece = bool(model.get("byte_fallback"))
    writer.add_tokenizer_model("llama" if sentencepiece else "gpt2")
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    if sentencepiece:
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, kinds, merges))
        writer.add_add_space_prefix(_adds_space(value))
    else:
        name = splitting_rule(template.backend)
        _check_merges(name, model)
        writer.add_tokenizer_pre(name)
        writer.add_token_merges([" ".join(pair) for pair in merges])
        writer.add_add_space_prefix(False)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _write_special(writer, template)
    writer.add_chat_template(template.text)


def _refuse(what: str, why: str) -> ModelError:
    return ModelError(f"this model cannot be written as GGUF: {what}", why=why, fix="--to merged")


def splitting_rule(tokenizer: Tokenizer) -> str:
    """llama.cpp's name of the rule by which the tokenizer splits text before its merges."""
    rule = _bare(json.loads(tokenizer.to_str())["pre_tokenizer"])
    for name, make in PRE_TOKENIZERS.items():
        probe = Tokenizer.from_str(tokenizer.to_str())
        probe.pre_tokenizer = make()
        if _bare(json.loads(probe.to_str())["pre_tokenizer"]) == rule:
            return name
    raise _refuse("its tokenizer splits text by a rule without a known name", json.dumps(rule)[:300])


def _bare(rule: Any) -> Any:
    """A splitting rule without what does not change ids: offsets, and sequences of one."""
    if not isinstance(rule, dict):
        return rule
    if rule.get("type") == "Sequence":
        inner = [_bare(item) for item in rule["pretokenizers"]]
        return inner[0] if len(inner) == 1 else {"type": "Sequence", "pretokenizers": inner}
    return {key: item for key, item in rule.items() if key != "trim_offsets"}


def _check_merges(name: str, model: dict[str, Any]) -> None:
    # llama.cpp decides by the rule's name whether a piece that is a token itself skips the merges.
    skips = name == "llama-bpe"
    if bool(model.get("ignore_merges")) != skips:
        raise _refuse("its tokenizer treats whole pieces otherwise than llama.cpp", f"ignore_merges with rule {name}")


def _vocabulary(tokenizer: Tokenizer, value: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    by_id = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    if len(by_id) > rows or (by_id and max(by_id) >= rows):
        raise _refuse("its tokenizer has more tokens than its embedding rows", f"{max(by_id) + 1} tokens, {rows} rows")
    added = {item["id"]: item for item in value["added_tokens"]}
    unknown = value["model"].get("unk_token")
    tokens, kinds = [], []
    for number in range(rows):
        token = by_id.get(number)
        tokens.append(f"[PAD{number}]" if token is None else token)
        if token is None:
            kinds.append(UNUSED)
        elif value["model"].get("byte_fallback") and token == unknown:
            kinds.append(UNKNOWN)
        elif number in added:
            kinds.append(CONTROL if added[number]["special"] else USER_DEFINED)
        elif value["model"].get("byte_fallback") and len(token) == 6 and token.startswith("<0x"):
            kinds.append(BYTE)
        else:
            kinds.append(NORMAL)
    return tokens, kinds


def _scores(tokens: list[str], kinds: list[int], merges: list[list[str]]) -> list[float]:
    """SentencePiece merges the pair with the best score first: minus the rank of the merge that makes a piece."""
    rank: dict[str, int] = {}
    for number, (left, right) in enumerate(merges):
        rank.setdefault(left + right, number)
    return [float(-rank[token]) if token in rank else NEVER for token in tokens]


def _adds_space(value: dict[str, Any]) -> bool:
    """Whether the tokenizer puts a space before the text."""
    normalizer, splitter = json.dumps(value.get("normalizer")), value.get("pre_tokenizer") or {}
    prepends = '"Prepend"' in normalizer
    if splitter.get("type") == "Metaspace":
        if splitter.get("prepend_scheme") == "first":
            raise _refuse("its tokenizer puts a space before the first piece only", "llama.cpp has no such rule")
        return prepends or splitter.get("prepend_scheme") == "always"
    return prepends


def _write_special(writer: GGUFWriter, template: Template) -> None:
    tokenizer = template.tokenizer
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id in template.stop_ids else min(template.stop_ids)
    writer.add_eos_token_id(eos)
    others = sorted(template.stop_ids - {eos})
    if len(others) > 2:
        raise _refuse(f"it has {len(template.stop_ids)} stop tokens", "GGUF has places for three")
    for number, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id)):
        add(number)
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id), (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):  # fmt: skip
        if number is not None:
            add(number)
    first = template.backend.encode("a", add_special_tokens=True).ids
    writer.add_add_bos_token(bool(first) and first[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
