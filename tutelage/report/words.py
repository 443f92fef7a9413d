"""Numbers as a person writes them. What is not a finite number becomes a dash, never an error or a guess."""

DASH = "–"
LARGEST = 1e300  # anything beyond is a broken number, and differences of it are not finite


def number(value: object) -> float | None:
    """`value` if it is a finite number (a comparison with NaN is false), else None; the files of a run folder may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else None


def count(value: object) -> str:
    """An integer with thousands separated: 12,345."""
    known = number(value)
    return DASH if known is None else f"{known:,.0f}"


def things(value: object, one: str, many: str = "") -> str:
    """A count with its noun: "1 row", "2 rows"."""
    return f"{count(value)} {one if number(value) == 1 else many or one + 's'}"


def short(value: object) -> str:
    """A large count in three digits: 135M, 1.24B."""
    known = number(value)
    if known is None:
        return DASH
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(known) >= limit * 0.9995:
            return f"{known / limit:.3g}{letter}"
    return f"{known:,.0f}"


def score(value: object) -> str:
    """A loss or a perplexity with about four digits."""
    known = number(value)
    if known is None:
        return DASH
    size = abs(known)
    if size >= 1e6:
        return f"{known:.2e}"
    return f"{known:,.{3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0}f}"


def percent(share: object) -> str:
    """A share of 1 as a percentage: more digits the closer it is to 0, so that little is not shown as none."""
    known = number(share)
    if known is None:
        return DASH
    value = 100 * known
    if 0 < abs(value) < 0.001:
        return "under 0.001%"
    if 99.95 <= value < 100:
        return "over 99.9%"
    digits = 0 if value in (0, 100) else 3 if abs(value) < 0.1 else 2 if abs(value) < 1 else 1
    return f"{value:.{digits}f}%"


def ratio(part: object, whole: object) -> float | None:
    """`part` / `whole`, or None where one of them is unknown or the whole is nothing."""
    top, bottom = number(part), number(whole)
    return None if top is None or not bottom else top / bottom


def duration(seconds: object) -> str:
    """A time span in its two largest units."""
    known = number(seconds)
    if known is None or known < 0:
        return DASH
    if known < 10:
        return f"{known:.1f} s"
    whole = round(known)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(known / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def memory(mib: object) -> str:
    """Mebibytes as MiB or GiB."""
    known = number(mib)
    if known is None:
        return DASH
    return f"{known / 1024:.1f} GiB" if known >= 1024 else f"{known:.0f} MiB"


def clock(iso: object) -> str:
    """An ISO time without its fraction and its T."""
    return str(iso).replace("T", " ").split(".")[0].split("+")[0].removesuffix("Z") if isinstance(iso, str) else ""


def clipped(text: object, limit: int) -> tuple[str, str]:
    """The first `limit` characters of `text`, and a sentence about the rest, or an empty one."""
    whole = text if isinstance(text, str) else "" if text is None else str(text)
    return whole[:limit], f"{len(whole) - limit:,} more characters are not shown" if len(whole) > limit else ""
