"""One JSON value, read strictly: what Python's `json` lets through and training must not is a fault with a reason."""

import json
import math
from collections.abc import Iterator
from itertools import chain

MAX_DEPTH = 64
MAX_BITS = 1024  # of a whole number; longer ones cannot be printed again everywhere
SHOWN = 60  # characters of a value that a message repeats

TYPE_NAMES = {
    str: "text", bool: "true or false", int: "a number", float: "a number", dict: "an object", list: "a list",
    type(None): "null",
}  # fmt: skip


class FaultError(Exception):
    """What is wrong with one value; the reader that knows its place turns it into a Problem."""

    def __init__(self, what: str, why: str = "", fix: str = "", line: int = 1) -> None:
        super().__init__(what)
        self.what, self.why, self.fix, self.line = what, why, fix, line


def parse(text: str) -> object:
    """The value that `text` spells; anything doubtful raises FaultError."""
    try:
        value: object = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text else f"column {error.colno}"
        near = shown(text[max(0, error.pos - 15) : error.pos + 25])
        why = f"{error.msg} at {place}, near {near}"
        raise FaultError("this is not JSON", why, _repair(text, error.pos), error.lineno) from error
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:  # Python's limit on the digits of a whole number
        raise FaultError("a number is too long", str(error), "write it as text") from error
    check(value)
    return value


def check(value: object) -> None:
    """Raise FaultError if `value` is not plain JSON: too deep, not finite, not encodable, or another Python type."""
    stack = [iter((value,))]  # iterators, not items: a list of ten million numbers takes no memory here
    while stack:
        for item in stack[-1]:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict | list):
                if len(stack) > MAX_DEPTH:
                    raise _too_deep()
                stack.append(_inside(item))
                break
            else:
                _check_scalar(item)
        else:
            stack.pop()


def _inside(item: dict[object, object] | list[object]) -> Iterator[object]:
    """Keys and values of an object, or the items of a list."""
    if isinstance(item, list):
        return iter(item)
    if wrong := [key for key in item if not isinstance(key, str)]:
        raise FaultError(f"a key is {type_name(wrong[0])}, not text", f"it is {shown(wrong[0])}", "use text keys")
    return chain(item, item.values())


def _check_scalar(item: object) -> None:
    if isinstance(item, float):
        if not math.isfinite(item):
            raise FaultError(f"{item} is not a JSON number", "it is not finite", "leave the key out or write null")
    elif isinstance(item, int):
        if item.bit_length() > MAX_BITS:
            raise FaultError("a number is too long", f"it has more than {MAX_BITS} bits", "write it as text")
    elif item is not None:
        raise FaultError(f"a Python {type(item).__name__} is not a JSON value", fix="use str, int, float, list or dict")


def shown(value: object) -> str:
    """`value` on one short line that is safe to print."""
    text = value if isinstance(value, str) else repr(value)
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")


def type_name(value: object) -> str:
    """The JSON type of `value` in plain words."""
    return TYPE_NAMES.get(type(value), f"a {type(value).__name__}")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise FaultError(
                    f"the key {shown(key)} stands twice in one object",
                    "only one of the two values could be used",
                    "remove or rename one of them",
                )
            seen.add(key)
    return result


def _constant(name: str) -> object:
    raise FaultError(f"{name} is not a JSON number", "JSON has no such value", "leave the key out or write null")


def _too_deep() -> FaultError:
    return FaultError("the nesting is too deep", f"more than {MAX_DEPTH} levels", "flatten the row")


def _repair(text: str, position: int) -> str:
    if text[position : position + 1] == "'" or text[:2] == "{'":
        return "use double quotes; write rows with json.dumps(row), not str(row)"
    return "write each row with a JSON library, e.g. json.dumps(row)"


def _check_text(text: str) -> None:
    if "\0" in text:
        raise FaultError("a text contains a NUL character", "it is a sign of damaged data", "remove it")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FaultError(
            f"a text contains half a character (U+{ord(text[error.start]):04X})",
            "a lone surrogate cannot be written as UTF-8",
            "remove it, or cut text between whole characters",
        ) from error
