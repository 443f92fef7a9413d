"""Rows that hold several examples, or of which several make one: self-instruct instances and OASST message trees."""

from collections.abc import Iterable, Iterator
from itertools import chain

from tutelage.data.formats.format import RowDict
from tutelage.data.types import At
from tutelage.errors import Problem

Row = tuple[At, RowDict]
ROLES = {"prompter": "user", "assistant": "assistant"}


def unfolded(items: Iterator[Row | Problem]) -> Iterator[Row | Problem]:
    """`items` with nested rows as flat ones; which shape a file has shows in its first row."""
    first = next(items, None)
    if first is None:
        return
    together = chain([first], items)
    row = {} if isinstance(first, Problem) else first[1]
    if "message_id" in row and "parent_id" in row:
        yield from _threads(together)
    elif isinstance(row.get("instances"), list):
        yield from _instances(together)
    else:
        yield from together


def _instances(items: Iterable[Row | Problem]) -> Iterator[Row | Problem]:
    """An alpaca row per instance; all of one row share its place (Wang et al. 2022, self-instruct's seed tasks)."""
    for item in items:
        if isinstance(item, Problem):
            yield item
            continue
        at, row = item
        instances = row.get("instances")
        if not isinstance(instances, list) or not instances or not all(isinstance(each, dict) for each in instances):
            fix = '[{"input": "...", "output": "..."}]'
            yield Problem("`instances` must be a list of objects", str(at), "it is empty, or something else", fix)
            continue
        for instance in instances:
            yield at, {"instruction": row.get("instruction"), "input": "", **instance}


def _threads(items: Iterable[Row | Problem]) -> Iterator[Row | Problem]:
    """A conversation per tree: from its root along the best-ranked replies to the last assistant turn (OASST1).

    The messages of a file are held in memory together. Deleted messages end a thread; a reply without a rank comes after
    those with one. A message whose parent is not in the file is a problem.
    """
    messages: dict[object, Row] = {}
    replies: dict[object, list[Row]] = {}
    for item in items:
        if isinstance(item, Problem):
            yield item
            continue
        at, row = item
        if not isinstance(row.get("text"), str) or row.get("role") not in ROLES:
            yield Problem("the message has no text, or no role of prompter or assistant", str(at), fix="remove it")
            continue
        if not isinstance(row.get("message_id"), str) or not isinstance(row.get("parent_id"), str | None):
            yield Problem("`message_id` and `parent_id` must be texts", str(at), fix="remove the message")
            continue
        messages[row["message_id"]] = item
        replies.setdefault(row["parent_id"], []).append(item)
    for at, row in messages.values():
        if row["parent_id"] is not None and row["parent_id"] not in messages:
            why = "its parent is not in the file"
            yield Problem("the message belongs to no tree", str(at), why, "add the parent, or remove the message")
    for root in replies.get(None, []):
        yield from _best_thread(root, replies)


def _best_thread(root: Row, replies: dict[object, list[Row]]) -> Iterator[Row | Problem]:
    thread: list[RowDict] = []
    seen: set[object] = set()
    node: Row | None = root
    while node is not None and not node[1].get("deleted") and node[1]["message_id"] not in seen:
        row = node[1]
        seen.add(row["message_id"])
        thread.append({"role": ROLES[str(row["role"])], "content": row["text"]})
        node = min(replies.get(row["message_id"], []), key=_rank, default=None)
    while thread and thread[-1]["role"] != "assistant":
        thread.pop()
    if thread:
        yield root[0], {"messages": thread}
    else:
        why = "it is deleted, or nobody replied"
        yield Problem("the tree has no answer", str(root[0]), why, "remove it, or drop it with `data prepare`")


def _rank(reply: Row) -> tuple[bool, bool, float, int]:
    rank = reply[1].get("rank")
    known = isinstance(rank, int | float)
    return bool(reply[1].get("deleted")), not known, float(rank) if isinstance(rank, int | float) else 0.0, reply[0].row
