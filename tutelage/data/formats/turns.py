"""Turns in OpenAI's shape, and the loss weight of a turn in any shape."""

import difflib

from tutelage.data.formats.fields import every, required_texts, wrong_type
from tutelage.data.formats.format import RowDict, RowError
from tutelage.data.formats.toolcalls import read_calls
from tutelage.data.jsonvalue import shown, type_name
from tutelage.data.types import At, Message, Role
from tutelage.errors import Problem

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
}  # fmt: skip
FOREIGN_ROLES = {
    "human": "user", "prompter": "user", "customer": "user", "gpt": "assistant", "bot": "assistant",
    "model": "assistant", "ai": "assistant", "chatbot": "assistant", "agent": "assistant",
    "function": "tool", "observation": "tool", "ipython": "tool",
}  # fmt: skip
WEIGHTS = ("weight", "train", "loss")
MAX_WEIGHT = 1000.0
FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", *WEIGHTS)
# Content of a turn that is not rendered: passing over it would train something else than what was written.
UNREAD = ("function_call", "reasoning_content", "reasoning", "thinking", "refusal", "audio", "images", "parts")


def read_turns(items: list[object], at: At, label: str) -> tuple[Message, ...]:
    """Messages from `[{"role": ..., "content": ...}, ...]`; the faults of all turns are reported together."""
    return every(items, lambda index, item: _turn(item, at, f"{label}[{index}]"))


def as_turn(item: object, at: At, label: str) -> RowDict:
    """`item`, which must be an object."""
    if isinstance(item, dict):
        return item
    raise RowError(f"`{label}` must be an object", where=str(at), why=f"it is {type_name(item)}")


def check_keys(turn: RowDict, at: At, label: str, known: tuple[str, ...]) -> None:
    """Refuse keys whose content would be lost: those that are not read, and likely slips of the pen."""
    for key, value in turn.items():
        if key in known or value is None or value == [] or value == "":
            continue
        if key in UNREAD:
            fix = "move it into `tool_calls`" if key == "function_call" else "put it into the text, or remove it"
            raise RowError(f"`{label}.{key}` is not read", where=str(at), why="it would be left out", fix=fix)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if near and near[0] not in turn:
            raise RowError(
                f"`{label}` has an unknown key {shown(key)}", where=str(at), fix=f"did you mean `{near[0]}`?"
            )


def read_weight(turn: RowDict, role: Role, at: At, label: str) -> float | None:
    """The loss weight of a turn from `weight` (a number) or `train` or `loss` (true or false); None where not given."""
    given = [key for key in WEIGHTS if turn.get(key) is not None]
    if not given:
        return None
    if len(given) > 1:
        both = " and ".join(f"`{key}`" for key in given)
        raise RowError(f"`{label}` has {both}", where=str(at), why="they mean the same", fix="keep one of them")
    key, value = given[0], turn[given[0]]
    expected = "a number from 0 to 1000" if key == "weight" else "true or false"
    if key == "weight":
        valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_WEIGHT
    else:
        valid = isinstance(value, bool)
    if not valid or not isinstance(value, int | float):
        raise RowError([wrong_type(turn, at, key, expected, f"{label}.{key}")])
    if value and role != "assistant":
        why = f"only assistant turns are trained, and this is a {role} turn"
        raise RowError(f"`{label}.{key}` asks to train this turn", where=str(at), why=why, fix=f"remove `{key}`")
    return float(value)


def unknown_role(value: object, at: At, label: str, known: list[str], meant: str | None) -> RowError:
    """The error for a role that no turn can have."""
    fix = f"did you mean `{meant}`?" if meant else "one of: " + ", ".join(known)
    return RowError(f"`{label}` is no known role: {shown(value)}", where=str(at), fix=fix)


def _turn(item: object, at: At, label: str) -> Message:
    turn = as_turn(item, at, label)
    if "role" not in turn:
        fix = "rows of `from` and `value` belong under `conversations`" if "from" in turn else "add `role`"
        raise RowError(f"`{label}.role` is missing", where=str(at), fix=fix)
    check_keys(turn, at, label, FIELDS)
    role = ROLES.get(turn["role"]) if isinstance(turn["role"], str) else None
    if role is None:
        meant = FOREIGN_ROLES.get(str(turn["role"]).lower(), str(turn["role"]).lower())
        raise unknown_role(turn["role"], at, f"{label}.role", list(ROLES), meant if meant in ROLES else None)
    calls: tuple[dict[str, object], ...] = ()
    if turn.get("tool_calls") is not None and turn["tool_calls"] != []:
        if role != "assistant":
            raise RowError(f"`{label}` is a {role} turn with tool calls", where=str(at), why="only the assistant calls")
        calls = read_calls(turn["tool_calls"], at, f"{label}.tool_calls")
    return Message(
        role=role,
        content=_content(turn, at, label, may_be_null=bool(calls)),
        weight=read_weight(turn, role, at, label),
        name=_identifier(turn, at, label, "name"),
        tool_calls=calls,
        tool_call_id=_identifier(turn, at, label, "tool_call_id"),
    )


def _content(turn: RowDict, at: At, label: str, *, may_be_null: bool) -> str:
    value = turn.get("content")
    if isinstance(value, str):
        return value
    if value is None and may_be_null:
        return ""
    if not isinstance(value, list):
        raise RowError([wrong_type(turn, at, "content", "text", f"{label}.content")])
    return "".join(every(value, lambda index, part: _part(part, at, f"{label}.content[{index}]")))


def _part(item: object, at: At, label: str) -> str:
    part = as_turn(item, at, label)
    kind = part.get("type")
    if kind != "text":
        what = f"`{label}` is a part of type {shown(kind)}"
        raise RowError(what, where=str(at), why="only text is read", fix="remove the part or the row")
    if not isinstance(part.get("text"), str):
        raise RowError([wrong_type(part, at, "text", "text", f"{label}.text")])
    return required_texts(part, at, "text")[0]


def _identifier(turn: RowDict, at: At, label: str, key: str) -> str | None:
    value = turn.get(key)
    if value is None or isinstance(value, str):
        return value
    raise RowError([wrong_type(turn, at, key, "text", f"{label}.{key}")])


def not_empty(messages: tuple[Message, ...], at: At, label: str) -> tuple[Message, ...]:
    """`messages`, of which there must be at least one."""
    if messages:
        return messages
    raise RowError([Problem(f"`{label}` is an empty list", str(at), "", "add turns, or remove the row")])
