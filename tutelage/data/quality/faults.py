"""Faults of one text: broken characters, markup, template text, and answers that should not be learnt.

Each check is a function from a text to what it found, in a few words, or None. They are meant to miss rather than to
accuse: every one has a stated rule, and none decides what a person should.
"""

import re
from collections import Counter

import ftfy

from tutelage.data.quality.personal import holds

MANY = 200_000  # characters of one text that are looked at

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
_SUSPICIOUS = re.compile(r"[ÂÃâÐÑ×Øðï][\x80-\xff\u0152-\u2122]|\ufffd")
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|nbsp|#\d{1,6}|#x[0-9a-fA-F]{1,5});")
TAG = re.compile(r"</?(?:p|br|div|span|a|b|i|li|ul|ol|td|tr|table|img|strong|em|font|h[1-6])(?:\s[^<>]{0,200})?/?>")
_TEMPLATE = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|begin_of_text|end_of_text|user|assistant"
    r"|system|end|startoftext)\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>(?=\s|$|[A-Z\[])"
    r"|^#{2,3} ?(?:Instruction|Input|Response|Human|Assistant|User) ?:|Below is an instruction that describes a task"
    r"|^(?:USER|ASSISTANT|Human|Assistant|Bot): ",
    re.MULTILINE,
)
# One of these is in every text that _TEMPLATE matches; it looks at each place of a text for each of its parts.
_TEMPLATE_SIGNS = (
    "<|", "_of_turn>", "INST]", "SYS>>", "<s>", "</s>", "##", "Below is an instruction", "USER: ", "ASSISTANT: ", "Human: ",
    "Assistant: ", "Bot: ",
)  # fmt: skip
_OF_AN_AI = re.compile(r"(?i)\bas an ai(?: language)? (?:model|assistant)\b")
_REFUSAL = re.compile(
    r"(?i)\W*(?:i'?m|i am) sorry,? (?:but )?(?:i|as)\b"
    r"|\W*(?:sorry,? )?(?:i'?m afraid )?i (?:can ?not|can'?t|am unable to|'?m unable to|am not able to|won'?t be able to)"
    r" (?:help|assist|provide|answer|fulfil|comply|do that|generate|create|access|continue)"
)
_LAST_WORDS = re.compile(
    r"(?:a|an|the|of|to|in|on|at|by|for|with|from|and|or|but|that|which|whose|as|if|than|into|because|is|are|was|were"
    r"|their|his|its|my|your|our|very|such|these)"
)


def encoding_fault(text: str) -> str | None:
    """U+FFFD, or text that was decoded with the wrong encoding (mojibake): ftfy must be able to say what it was."""
    match = None if text.isascii() else _SUSPICIOUS.search(text)
    if not match:
        return None
    if "\ufffd" in text:
        return "U+FFFD stands where a character was lost"
    fixed, steps = ftfy.fix_and_explain(text[:MANY], uncurl_quotes=False, unescape_html=False)
    decoded = any(step.action == "encode" for step in steps or [])
    return f"mojibake near {around(text, match.start())}" if decoded and fixed != text else None


def control_character(text: str) -> str | None:
    """Invisible characters: control codes, zero-width spaces, marks that turn the direction of writing."""
    match = CONTROL.search(text)
    return f"U+{ord(match[0]):04X} near {around(text, match.start())}" if match else None


def markup(text: str) -> str | None:
    """HTML entities or tags of running text."""
    match = ("&" in text and _ENTITY.search(text)) or ("<" in text and TAG.search(text)) or None
    return f"{match[0][:40]} near {around(text, match.start())}" if match else None


def template_text(text: str) -> str | None:
    """Text of a chat or prompt template; the model's own template would be put around it once more."""
    match = _TEMPLATE.search(text) if holds(text, _TEMPLATE_SIGNS) else None
    return f"{match[0].strip()!r}" if match else None


def refusal(answer: str) -> str | None:
    """An answer that declines, or speaks of itself as an AI."""
    head = answer[:400]
    match = _REFUSAL.match(head) or ("as an " in head.lower() and _OF_AN_AI.search(head)) or None
    return f"{match[0].strip()!r}" if match else None


def truncated(answer: str) -> str | None:
    """An answer of at least eight words that ends in a comma, an open bracket or a word that nothing can end with."""
    end = answer.rstrip()
    if len(end) < 40 or end.count(" ") < 7:
        return None
    if end[-1] in ",([{":
        return f"it ends in {end[-20:]!r}"
    last = end[end.rfind(" ") + 1 :].lower()
    return f"it ends in {end[-20:]!r}" if _LAST_WORDS.fullmatch(last) else None


def copied_prompt(prompt: list[str], answer: list[str]) -> str | None:
    """An answer that is the prompt, or begins with all of it (at least five words)."""
    if len(prompt) >= 5 and answer[: len(prompt)] == prompt:
        return "the answer is the prompt" if len(answer) == len(prompt) else "the answer begins with the whole prompt"
    return None


def repetition(words: list[str]) -> str | None:
    """At least 24 words, over half of which are the same four in a row again and again: a loop of a generator."""
    if len(words) < 24 or len(set(words)) * 3 > len(words) * 2:
        return None
    grams = Counter(zip(words, words[1:], words[2:], words[3:]))
    gram, count = grams.most_common(1)[0]
    covered = count * len(set(gram))
    return f"{' '.join(gram)!r} stands {count:,} times" if count >= 5 and covered * 2 > len(words) else None


def around(text: str, place: int) -> str:
    """The text at `place` with a few characters on both sides, escaped."""
    return ascii(text[max(0, place - 12) : place + 16])
