"""Named cleaning rules in a fixed order: what they change in texts, and which rows they drop."""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ftfy

from tutelage.data.formats.format import RowDict
from tutelage.data.quality import faults, personal
from tutelage.data.quality.keys import words
from tutelage.data.quality.languages import SHORTEST, language
from tutelage.data.quality.view import LABELLED, View
from tutelage.errors import Problem, RecipeError
from tutelage.registry import suggestion

# Keys whose values are names, not text.
NAMES = frozenset(
    ("role", "from", "id", "type", "name", "tool_call_id", "tools", "tool_calls", "label", "labels", "category", "_at")
)
# Rows with these keys point into their texts by character or word: no text rule touches them.
POINTING = frozenset(("answers", "answer_start", "tokens", "tags", "ner_tags"))
_ALPACA = re.compile(
    r"Below is an instruction that describes a task(?:, paired with an input that provides further context)?\. "
    r"Write a response that appropriately completes the request\.\s+### Instruction:\n(?P<instruction>.*?)"
    r"(?:\n+### Input:\n(?P<input>.*?))?\n+### Response:\s*",
    re.DOTALL,
)
_CONTROL_TOKENS = re.compile(r"<\|(?:endoftext|im_end|eot_id|end_of_text)\|>|<end_of_turn>|</s>\s*$")


def repair_encoding(text: str) -> str:
    """Characters that were decoded with the wrong encoding, put right (ftfy)."""
    return ftfy.fix_encoding(text) if not text.isascii() else text


def control_characters(text: str) -> str:
    """Without invisible characters."""
    return re.sub(faults.CONTROL, "", text)


def whitespace(text: str) -> str:
    """One kind of line end, no spaces at the ends of text and lines, at most one blank line in a row."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if " \n" in text or "\t\n" in text:
        text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def template_text(text: str) -> str:
    """Without an Alpaca frame around it, and without end-of-text tokens."""
    if "### Instruction" in text and (match := _ALPACA.fullmatch(text)):
        text = "\n\n".join(part for part in (match["instruction"], match["input"]) if part)
    return _CONTROL_TOKENS.sub("", text) if "<" in text else text


def unmarked(text: str) -> str:
    """Without HTML tags, and with entities as the characters they mean."""
    return html.unescape(faults.TAG.sub("", text))


TextRule = Callable[[str], str]
RowRule = Callable[[View, dict[str, Any]], str | None]
TEXT_RULES: dict[str, TextRule] = {
    "repair_encoding": repair_encoding,
    "control_characters": control_characters,
    "template_text": template_text,
    "html": unmarked,
    "whitespace": whitespace,
    "mask_personal": personal.mask,
}


def _empty(seen: View, options: dict[str, Any]) -> str | None:
    if not seen.prompt.strip():
        return "nothing stands before the answer"
    if seen.turns and seen.answer is None:
        return "no turn is the assistant's"
    if seen.format == LABELLED and seen.label is None:
        return "the label is null"
    if seen.format == "squad":  # a question may have no answer
        return None
    has_target = seen.answer is not None or seen.label is not None
    return "the answer or label is empty" if has_target and not seen.target.strip() else None


def _short(seen: View, options: dict[str, Any]) -> str | None:
    size = len(seen.prompt) + len(seen.answer or "")
    return f"{size:,} characters" if size < options["characters"] else None


def _long(seen: View, options: dict[str, Any]) -> str | None:
    size = len(seen.prompt) + len(seen.answer or "")
    return f"{size:,} characters" if size > options["characters"] else None


def _language(seen: View, options: dict[str, Any]) -> str | None:
    text = seen.answer or seen.prompt
    code = language(text[:1000]) if len(text) >= SHORTEST else None
    return f"its language is {code}" if code and code not in options["keep"] else None


ROW_RULES: dict[str, tuple[RowRule, dict[str, Any]]] = {
    "drop_empty": (_empty, {}),
    "drop_short": (_short, {"characters": 10}),
    "drop_long": (_long, {"characters": 20_000}),
    "drop_refusals": (lambda seen, options: faults.refusal(seen.answer or ""), {}),
    "drop_truncated": (lambda seen, options: faults.truncated(seen.answer or ""), {}),
    "drop_copied": (lambda seen, options: faults.copied_prompt(words(seen.prompt), words(seen.answer or "")), {}),
    "drop_repetition": (lambda seen, options: faults.repetition(words(seen.answer or "")), {}),
    "language": (_language, {"keep": ["en"]}),
}
DEFAULTS = ("repair_encoding", "control_characters", "template_text", "whitespace", "drop_empty")


@dataclass(frozen=True)
class Rules:
    """The rules of one preparation, by name with their options, in the order in which they are applied."""

    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)

    def clean(self, row: RowDict) -> tuple[RowDict, list[str]]:
        """The row with its texts changed, and the names of the rules that changed it."""
        if POINTING & row.keys():
            return row, []
        changed: list[str] = []
        for name, rule in TEXT_RULES.items():
            if name in self.chosen:
                after = _mapped(row, rule)
                if after != row:
                    changed.append(name)
                    row = after
        return row, changed

    def drop(self, seen: View) -> tuple[str, str] | None:
        """The rule that drops the row, with what it found; None where it stays."""
        for name, (rule, _) in ROW_RULES.items():
            if name in self.chosen and (found := rule(seen, self.chosen[name])):
                return name.removeprefix("drop_"), found
        return None


def choose(changes: Sequence[str | dict[str, Any]]) -> Rules:
    """The default rules with `changes`: "-name" takes one away, "+name" or {name: options} adds one."""
    known = [*TEXT_RULES, *ROW_RULES]
    chosen: dict[str, dict[str, Any]] = {name: {} for name in DEFAULTS}
    problems: list[Problem] = []
    for index, change in enumerate(changes):
        given = change if isinstance(change, dict) else {change.lstrip("+-"): None}
        for name, options in given.items():
            where = f"data.clean[{index}]"
            defaults = ROW_RULES[name][1] if name in ROW_RULES else {}
            if name not in known:
                problems.append(Problem(f"unknown cleaning rule `{name}`", where, fix=suggestion(name, known)))
            elif options is not None and (not isinstance(options, dict) or options.keys() - defaults.keys()):
                allowed = ", ".join(defaults) or "none"
                problems.append(Problem(f"`{name}` has no such option", where, f"its options: {allowed}"))
            elif isinstance(change, str) and change.startswith("-"):
                chosen.pop(name, None)
            else:
                chosen[name] = {**defaults, **(options or {})}
    if problems:
        raise RecipeError(problems)
    return Rules({name: chosen[name] | {} for name in known if name in chosen})


def _mapped(value: Any, rule: TextRule, key: str = "") -> Any:
    if isinstance(value, str):
        return value if key in NAMES else rule(value)
    if isinstance(value, dict):
        return {name: inner if name in NAMES else _mapped(inner, rule, name) for name, inner in value.items()}
    return [_mapped(item, rule, key) for item in value] if isinstance(value, list) else value
