"""Tools and calls of tools, brought into the one shape that chat templates read."""

from tutelage.data.formats.fields import every
from tutelage.data.formats.format import RowDict, RowError
from tutelage.data.jsonvalue import FaultError, parse, type_name
from tutelage.data.types import At

CALL_FIX = '{"type": "function", "function": {"name": "search", "arguments": {"query": "..."}}}'
TOOL_FIX = '{"type": "function", "function": {"name": "search", "description": "...", "parameters": {...}}}'


def read_tools(row: RowDict, at: At) -> tuple[dict[str, object], ...]:
    """The tools of a row, from a list or JSON text; bare functions are wrapped as `{"type": "function", ...}`."""
    value = row.get("tools")
    if isinstance(value, str):
        value = _json(value, at, "tools") if value.strip() else []
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowError("`tools` must be a list", where=str(at), why=f"it is {type_name(value)}", fix=f"[{TOOL_FIX}]")
    return every(value, lambda index, tool: _tool(tool, at, f"tools[{index}]"))


def read_calls(value: object, at: At, label: str) -> tuple[dict[str, object], ...]:
    """Calls as `{"type": "function", "function": {"name", "arguments"}}`, the arguments an object, never text."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        what = f"`{label}` must be a list of calls"
        raise RowError(what, where=str(at), why=f"it is {_described(value)}", fix=f"[{CALL_FIX}]")
    return every(value, lambda index, call: _call(call, at, f"{label}[{index}]"))


def parse_calls(text: str, at: At, label: str) -> tuple[dict[str, object], ...]:
    """The calls that JSON text holds: one object or a list."""
    return read_calls(_json(text, at, label), at, label)


def _tool(value: object, at: At, label: str) -> dict[str, object]:
    tool = value if isinstance(value, dict) and "function" in value else {"type": "function", "function": value}
    function = tool["function"]
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError(f"`{label}` is not a tool", where=str(at), why="it has no function with a name", fix=TOOL_FIX)
    return {"type": "function", **tool}


def _call(value: object, at: At, label: str) -> dict[str, object]:
    call = value if isinstance(value, dict) and "function" in value else {"function": value}
    function = call["function"]
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError(f"`{label}` is not a call", where=str(at), why="it has no function with a name", fix=CALL_FIX)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments, at, f"{label}.arguments") if arguments.strip() else {}
    if not isinstance(arguments, dict):
        what = f"`{label}.arguments` must be an object"
        raise RowError(what, where=str(at), why=f"it is {type_name(arguments)}", fix=CALL_FIX)
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def _json(text: str, at: At, label: str) -> object:
    try:
        return parse(text)
    except FaultError as fault:
        what = f"`{label}` must be JSON: {fault.what}"
        raise RowError(what, where=str(at), why=fault.why, fix=fault.fix) from fault


def _described(value: object) -> str:
    return "empty" if value == [] else type_name(value)
