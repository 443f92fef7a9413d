"""Ways to write entities as tags: BIO (IOB2), IOB1 and BILOU (IOBES). Everything is trained as BIO."""

from collections.abc import Iterable, Sequence

from tutelage.errors import DataError, Problem

Span = tuple[str, int, int]  # kind, first word, behind the last word
SEPARATORS = "-_"
STARTS, INSIDES = {"B", "U", "S"}, {"I", "L", "E", "M"}


def split_tag(tag: str) -> tuple[str, str]:
    """("B", "person") of "B-person"; ("O", "") outside."""
    if tag == "O":
        return "O", ""
    if len(tag) > 2 and tag[1] in SEPARATORS and tag[0] in STARTS | INSIDES:
        return tag[0], tag[2:]
    return "", tag


def spans(tags: Sequence[str]) -> list[Span]:
    """The entities that tags of any of the schemes spell: a new kind, or a mark of a beginning, begins a new one."""
    found: list[Span] = []
    open_kind, start = "", 0
    for index, tag in enumerate([*tags, "O"]):
        mark, kind = split_tag(tag)
        if open_kind and (mark in STARTS or mark == "O" or kind != open_kind):
            found.append((open_kind, start, index))
            open_kind = ""
        if mark != "O" and not open_kind:
            open_kind, start = kind, index
        if mark in ("L", "E", "U", "S") and open_kind:
            found.append((open_kind, start, index + 1))
            open_kind = ""
    return found


def as_bio(tags: Sequence[str]) -> tuple[str, ...]:
    """The same entities as BIO tags."""
    result = ["O"] * len(tags)
    for kind, start, stop in spans(tags):
        result[start:stop] = [f"B-{kind}", *[f"I-{kind}"] * (stop - start - 1)]
    return tuple(result)


def scheme_of(rows: Iterable[Sequence[str]]) -> str:
    """The scheme that the tags of a data set are written in; plain class names without marks are "none"."""
    marks: set[str] = set()
    bare = begins_inside = False
    for tags in rows:
        before = "O"
        for tag in tags:
            mark, kind = split_tag(tag)
            marks.add(mark)
            bare |= mark == ""
            begins_inside |= mark == "I" and (before == "O" or split_tag(before)[1] != kind)
            before = tag
    if bare:
        return "none"
    if marks & {"L", "U", "E", "S", "M"}:
        return "BILOU"
    return "IOB1" if begins_inside else "BIO"


def check_scheme(tags: Sequence[str], scheme: str, where: str) -> None:
    """DataError where a tag does not belong to the scheme that the recipe names."""
    allowed = {"BIO": {"O", "B", "I"}, "IOB1": {"O", "B", "I"}, "BILOU": {"O", "B", "I", "L", "U", "E", "S", "M"}}[
        scheme
    ]
    wrong = sorted({tag for tag in tags if split_tag(tag)[0] not in allowed})
    if wrong:
        raise DataError(
            [Problem(f"{wrong[0]!r} is no {scheme} tag", where, fix="correct it, or set task.scheme: auto")]
        )
