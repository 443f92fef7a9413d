"""How much data is advisable: rules of thumb, said to be that."""

from typing import Any

from tutelage.data.quality.findings import Tally, example
from tutelage.data.quality.profile import Profile
from tutelage.data.types import At

# kind of rows: (least, good), and what it is about
ROWS = {
    "conversation": (50, 1000, "instruction and chat data: tone and format from about 50 rows, new tasks from 1,000"),
    "label": (8, 50, "classification: at least 8 rows per label, 50 and more for labels that are close to each other"),
    "other": (200, 2000, "tagging, answers from a text, translation: at least 200 rows, 2,000 for a good model"),
}


def advise(profile: Profile, tally: Tally) -> dict[str, Any]:
    """Rows that are there and rows that are advisable; fewer than the least is a finding."""
    rows = profile.rows.total()
    unique = rows - tally.counts.get("exact_duplicate", 0) - tally.counts.get("normalised_duplicate", 0)
    kind = "label" if len(profile.labels) > 1 else "conversation" if profile.turns else "other"
    least, good, rule = ROWS[kind]
    factor = len(profile.labels) if kind == "label" else 1
    advice = {
        "kind": kind, "rows": rows, "different_rows": unique, "least": least * factor, "good": good * factor,
        "rule": rule,
    }  # fmt: skip
    if 0 < unique < least * factor:
        file = next(iter(profile.rows))
        tally.add("too_few_rows", example(At(file, 1), detail=f"{unique:,} different rows; {rule}"))
    return advice
