"""Texts brought to a normal form, and hashes of it, by which equal rows are found."""

import hashlib
import json
import re
import string
import unicodedata
from json.encoder import encode_basestring

# Punctuation and currency signs become a space; signs that carry meaning (+ * / = < > # % @ & and the minus of a number)
# stay, so that "C#" is not "C" and "-1" is not "1"; "3.5" is "3 5" and not "35".
_SPACED = ".,;:!?\"()[]{}…“”„«»‹›。，、；：！？（）「」『』【】¿¡–—$€£¥'’‘`"
_BLANKS = "\x85\u1680\u2028\u2029"  # what is left of Unicode's white space by NFKC
_UNICODE = {ord(c): " " for c in _SPACED + _BLANKS}
_ASCII = str.maketrans(string.ascii_uppercase, string.ascii_lowercase) | _UNICODE
_HYPHEN = re.compile(r"(?<=\w)-|-(?!\d)")
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True)
MOST = 1_000_000  # characters of a text that are taken apart; words of more would take 20 times its memory
# Scripts written without spaces: each character is a word of its own.
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")


def words(text: str) -> list[str]:
    """The words of `text` without case, punctuation and Unicode variants; what follows after `MOST` is one word."""
    return spaced(text).split()


def spaced(text: str) -> str:
    """The `words` of a text with white space between them."""
    text = _bounded(text)
    if text.isascii():
        folded = text.translate(_ASCII)
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_UNICODE)
        folded = _UNSPACED.sub(r" \1 ", folded)
    return _HYPHEN.sub(" ", folded) if "-" in folded else folded


def folded(text: str) -> str:
    """`text` without case, Unicode variants and the amount of white space; punctuation stays."""
    return " ".join(unicodedata.normalize("NFKC", _bounded(text)).casefold().split())


def _bounded(text: str) -> str:
    """`text`; what follows after `MOST` characters as a hash of it."""
    return text if len(text) <= MOST else f"{text[:MOST]} {key(text[MOST:]):016x}"


def written(value: object) -> str:
    """The JSON of a value, as the encoder writes it; what rows consist of is written without making one, in a third of the time."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)  # type: ignore[arg-type]  # mypy does not see that it is a str
    if kind is tuple or kind is list:
        return f"[{', '.join(map(written, value))}]"  # type: ignore[call-overload]  # nor that it is a sequence
    return _ENCODER.encode(value)


def key(*parts: object) -> int:
    """A number below 2**64 that depends on `parts` (JSON values) only."""
    digest = hashlib.blake2b(written(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
