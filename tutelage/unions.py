"""pydantic's errors of values that fit no kind of a union: one for each value, not one for each kind."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

BRANCHES = re.compile(r"(int|float|str|bool|none|(list|dict|literal)\[.*\]|(constrained|function|json)-.*)")
SHOULD_BE = "Input should be "


def one_each(items: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One problem for a value that fits no kind of a union: of the kind that it has the shape of, or naming all kinds."""
    unions: dict[tuple[int | str, ...], list[dict[str, Any]]] = {}
    for item in items:
        first = next((i for i, part in enumerate(item["loc"]) if BRANCHES.fullmatch(str(part))), None)
        union = item["loc"] if first is None else item["loc"][:first]
        unions.setdefault(union, []).append({**item, "loc": union, "inside": typed(item["loc"][len(union) :])})
    for union, found in unions.items():
        inside = [item for item in found if item["inside"]]
        if inside or len(found) == 1:
            yield from ({**item, "loc": (*union, *item["inside"])} for item in inside or found)
        else:
            kinds = (item["msg"].removeprefix(SHOULD_BE).partition(", unable")[0] for item in found)
            yield {**found[0], "msg": SHOULD_BE + " or ".join(dict.fromkeys(kinds))}


def typed(location: Sequence[int | str]) -> list[int | str]:
    """Without the kinds of a union, which nobody has typed."""
    return [part for part in location if not BRANCHES.fullmatch(str(part))]
