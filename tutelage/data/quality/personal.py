"""Secrets and personal data in texts: found by shape and checksum, and never shown whole.

A pattern finds what looks like an address or a number; it cannot know whose it is, and names are not looked for.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hit:
    """A place `start:end` of a text that holds something of `sort` (email, iban, ...)."""

    sort: str
    secret: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Sort:
    name: str
    pattern: re.Pattern[str]
    valid: Callable[[str], bool] = lambda text: True
    secret: bool = False
    digits: bool = False  # without signs: it needs seven digits or groups of them in a row, else a dotted number
    # One of these is in every text that the pattern matches, in small letters where `folded`. Most texts hold none, and
    # looking for a few words takes a fraction of the time of the pattern.
    signs: tuple[str, ...] = ()
    folded: bool = False


def luhn(text: str) -> bool:
    """Whether the digits of `text` have the checksum of payment cards (ISO/IEC 7812)."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def iban(text: str) -> bool:
    """Whether `text` has the checksum of an account number (ISO 13616: modulo 97)."""
    compact = text.replace(" ", "")
    number = "".join(str(int(c, 36)) for c in compact[4:] + compact[:4])
    return 15 <= len(compact) <= 34 and int(number) % 97 == 1


def ip_address(text: str) -> bool:
    """Whether `text` is an IPv4 address of a machine: not loopback, not a version number's neighbour."""
    parts = [int(part) for part in text.split(".")]
    return all(part < 256 for part in parts) and parts[0] not in (0, 127) and max(parts) > 15


def phone(text: str) -> bool:
    """Whether `text` has as many digits as a telephone number."""
    return 9 <= sum(c.isdigit() for c in text) <= 15


def _mixed(text: str) -> bool:
    """Whether a value looks drawn at random: letters and digits, at least 8."""
    value = re.split(r"[=:]\s*", text, maxsplit=1)[-1].strip("'\"")
    return len(value) >= 8 and bool(re.search(r"\d", value)) and bool(re.search(r"[A-Za-z]", value))


SORTS = (
    _Sort("private_key", re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"), secret=True, signs=("BEGIN ",)),
    _Sort("aws_key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), secret=True, signs=("AKIA", "ASIA")),
    _Sort(
        "github_token",
        re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{50,})"),
        secret=True,
        signs=("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    _Sort(
        "api_key",
        re.compile(r"\b(?:sk-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{30,}|AIza[\w-]{35})"),
        secret=True,
        signs=("sk-", "hf_", "AIza"),
    ),
    _Sort("slack_token", re.compile(r"\bxox[abposr]-[A-Za-z0-9-]{10,}"), secret=True, signs=("xox",)),
    _Sort("json_web_token", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"), secret=True, signs=("eyJ",)),
    _Sort(
        "password",
        re.compile(r"(?i)\b(?:password|passwd|api_?key|secret|token)\s{0,3}[=:]\s{0,3}[^\s,;]{8,80}"),
        _mixed,
        secret=True,
        signs=("passw", "apikey", "api_key", "secret", "token"),
        folded=True,
    ),
    _Sort("email", re.compile(r"\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,4}[A-Za-z]{2,24}\b"), signs=("@",)),
    _Sort("iban", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"), iban, digits=True),
    _Sort("card_number", re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d.-])"), luhn, digits=True),
    _Sort(
        "social_security_number",
        re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
        digits=True,
    ),
    _Sort("ip_address", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"), ip_address),
    _Sort(
        "phone",
        re.compile(
            r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}|\(\d{3}\) ?\d{3}[ -]\d{4}"
            r"|\d{3}[-.]\d{3}[-.]\d{4}|0\d{9,10})(?![\w-])"
        ),
        phone,
        digits=True,
    ),
)
_DIGITS = re.compile(r"\d(?:[ .()-]{0,3}[\dA-Z]){6}")
_DOTTED = re.compile(r"\d\.\d")


def find(text: str) -> Iterator[Hit]:
    """The secrets and personal data in `text`; of overlapping ones the first sort in the list."""
    taken: list[tuple[int, int]] = []
    # as (?i) has it, the long s is an s, too
    lower = text.lower() if text.isascii() else text.lower().replace("\u017f", "s")
    many_digits, dotted = _DIGITS.search(text) is not None, _DOTTED.search(text) is not None
    for sort in SORTS:
        given = lower if sort.folded else text
        if not (holds(given, sort.signs) if sort.signs else many_digits if sort.digits else dotted):
            continue
        for match in sort.pattern.finditer(text):
            start, end = match.span()
            if all(end <= a or start >= b for a, b in taken) and sort.valid(match[0]):
                taken.append((start, end))
                yield Hit(sort.name, sort.secret, start, end)


def holds(text: str, signs: Iterable[str]) -> bool:
    """Whether any of `signs` stands in `text`; a plain loop, as a generator for `any` takes twice the time."""
    for sign in signs:  # noqa: SIM110
        if sign in text:
            return True
    return False


def masked(text: str, hit: Hit) -> str:
    """What may be shown of a hit: its first two characters and its length."""
    return f"{text[hit.start : hit.start + 2]}… ({hit.end - hit.start} characters)"


def mask(text: str) -> str:
    """`text` with every hit replaced by its sort in brackets, such as [email]."""
    for hit in sorted(find(text), key=lambda hit: -hit.start):
        text = f"{text[: hit.start]}[{hit.sort}]{text[hit.end :]}"
    return text
