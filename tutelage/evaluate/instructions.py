"""Whether an answer has the format that was asked for: checks that a program can decide, by name."""

import json
import re
from collections.abc import Callable
from typing import Any

from tutelage.registry import Registry

Check = Callable[[str, dict[str, Any]], bool]
CHECKS: Registry[Check] = Registry("format check")
SENTENCE = re.compile(r"[^.!?]+[.!?]+")


def obeyed(answer: str, check: dict[str, Any]) -> bool:
    """Whether `answer` passes the check `{"kind": ..., ...}`; an empty answer obeys nothing."""
    text = answer.strip()
    return bool(text) and CHECKS.get(str(check["kind"]))(text, check)


@CHECKS.add("words")
def _words(text: str, check: dict[str, Any]) -> bool:
    return len(text.split()) <= int(check["most"])


@CHECKS.add("one_of")
def _one_of(text: str, check: dict[str, Any]) -> bool:
    return text.rstrip(".!").lower() in check["values"]


@CHECKS.add("pattern")
def _pattern(text: str, check: dict[str, Any]) -> bool:
    return re.fullmatch(check["pattern"], text, re.DOTALL) is not None


@CHECKS.add("json")
def _json(text: str, check: dict[str, Any]) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return set(check["keys"]) <= set(value) if check["keys"] and isinstance(value, dict) else not check["keys"]


@CHECKS.add("bullets")
def _bullets(text: str, check: dict[str, Any]) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) == check["count"] and all(line.startswith("- ") for line in lines)


@CHECKS.add("lowercase")
def _lowercase(text: str, check: dict[str, Any]) -> bool:
    return text == text.lower()


@CHECKS.add("uppercase")
def _uppercase(text: str, check: dict[str, Any]) -> bool:
    return text == text.upper()


@CHECKS.add("without")
def _without(text: str, check: dict[str, Any]) -> bool:
    return check["text"] not in text


@CHECKS.add("contains")
def _contains(text: str, check: dict[str, Any]) -> bool:
    return check["text"].lower() in text.lower()


@CHECKS.add("starts")
def _starts(text: str, check: dict[str, Any]) -> bool:
    return text.startswith(check["text"])


@CHECKS.add("ends")
def _ends(text: str, check: dict[str, Any]) -> bool:
    return text.endswith(check["text"])


@CHECKS.add("sentences")
def _sentences(text: str, check: dict[str, Any]) -> bool:
    return len(SENTENCE.findall(text)) == check["count"] and text[-1] in ".!?\"'”"
