"""The evidence of a run as values: answers, token contract, data, parameters, machine. The template lays them out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tutelage.report.facts import Facts, listed
from tutelage.report.story import method_name
from tutelage.report.svg import bar
from tutelage.report.words import DASH, clipped, count, memory, number, percent, ratio, things

MAX_TEXT = 6000  # characters of one answer or example


@dataclass(frozen=True, slots=True)
class Share:
    """One row of a table with bars."""

    label: str
    count: str
    share: str
    bar: Markup


def samples(facts: Facts) -> list[dict[str, Any]]:
    """Prompts with their answers; long texts are cut, and say so."""
    names = (("before", "Untouched model"), ("after", "Tuned model"), ("reference", "Reference"))
    return [
        {"prompt": clipped(one.get("prompt"), MAX_TEXT),
         "answers": [(key, name, clipped(one[key], MAX_TEXT)) for key, name in names if one.get(key) is not None]}
        for one in facts.samples
    ]  # fmt: skip


def shares(counts: object, total: object = None) -> list[Share]:
    """A table of counts as bars of `total`, or of their sum; the largest first."""
    known = {str(key): number(value) for key, value in counts.items()} if isinstance(counts, dict) else {}
    whole = number(total) or sum(value or 0.0 for value in known.values())
    return [
        Share(label, count(value), percent(ratio(value, whole)), bar([(ratio(value, whole) or 0.0, "on"), (1, "off")]))
        for label, value in sorted(known.items(), key=lambda item: -(item[1] or 0.0))
    ]


def contract(facts: Facts) -> dict[str, Any]:
    """The token contract: totals, checks, tokens per role, examples; empty before it is examined."""
    found = facts.contract
    if not found:
        return {}
    share = ratio(found.get("target_tokens"), found.get("tokens"))
    checks = [one for one in listed(found.get("checks")) if isinstance(one, dict)]
    return {
        "rows": things(found.get("rows"), "row"),
        "tokens": things(found.get("tokens"), "token"),
        "targets": count(found.get("target_tokens")),
        "share": percent(share),
        "bar": bar([(share or 0.0, "on"), (1, "off")], 14),
        "roles": shares(found.get("roles"), found.get("tokens")),
        "checks": [
            {"passed": one.get("passed") is True, "name": str(one.get("name", "")).replace("_", " "),
             "detail": one.get("detail", ""), "problems": listed(one.get("problems"))}
            for one in sorted(checks, key=lambda one: one.get("passed") is True)
        ],
        "failed": sum(one.get("passed") is not True for one in checks),
        "length": _length(found),
        "template": clipped(found.get("added_by_template"), MAX_TEXT)[0],
        "examples": [_example(one) for one in listed(found.get("examples")) if isinstance(one, dict)],
    }  # fmt: skip


def _length(found: dict[str, Any]) -> str:
    over = number(found.get("over_length"))
    if over is None:
        return ""
    if over == 0:
        return "No row was longer than the limit."
    cut = number(found.get("truncated")) or 0
    lost = f"{things(cut, 'row')} lost {'its' if cut == 1 else 'their'} end" if cut else "none was cut"
    long = "was" if over == 1 else "were"
    return f"{things(over, 'row')} ({percent(found.get('over_length_share'))}) {long} longer than the limit; {lost}."


def _example(one: dict[str, Any]) -> dict[str, Any]:
    pieces, room, hidden, previous = [], MAX_TEXT, 0, ""
    for piece in listed(one.get("pieces")):
        text, weight, role = (*piece, "", 0, "")[:3] if isinstance(piece, list) else ("", 0, "")
        text, amount = str(text), number(weight) or 0.0
        hidden += max(0, len(text) - room)
        if room > 0:
            pieces.append({
                # The end of a line is a token like any other: it is shown, so that one sees whether it is trained.
                "lines": text[:room].split("\n"), "trained": amount != 0, "role": str(role),
                "begins": role not in (previous, "template"),
                "weight": f"×{amount:g}" if amount not in (0.0, 1.0) else "",
            })  # fmt: skip
        room, previous = room - len(text), role
    rest = f"{hidden:,} more characters are not shown" if hidden else ""
    return {"title": one.get("title", ""), "at": one.get("at", ""), "pieces": pieces, "rest": rest}


def data(facts: Facts) -> dict[str, Any]:
    """Rows per split, files, overlap and drops."""
    part = facts.part("data")
    reasons = facts.part("data", "dropped")
    lost = sum(number(value) or 0.0 for value in reasons.values()) if reasons else facts.dropped
    return {
        "counts": shares(part.get("counts")),
        "formats": sorted(facts.part("data", "formats").items()),
        "overlap": [
            (kind, things(value, "row") if value else "No rows")
            for kind, value in sorted(facts.part("data", "overlap").items())
        ],
        "reasons": shares(reasons),
        "lost": things(lost, "row"),
        "drops": facts.drops,
        "unlisted": count(facts.dropped - len(facts.drops)) if facts.dropped > len(facts.drops) else "",
        "fingerprint": part.get("fingerprint", ""),
    }


def trained(facts: Facts) -> dict[str, Any]:
    """How much of the model was trained; empty while unknown."""
    totals = facts.part("totals")
    share = ratio(totals.get("trainable_parameters"), totals.get("total_parameters"))
    if share is None:
        return {}
    some, whole = count(totals.get("trainable_parameters")), count(totals.get("total_parameters"))
    return {"sentence": f"{some} of {whole} parameters were trained: {percent(share)}.",
            "bar": bar([(share, "on"), (1, "off")], 14), "method": method_name(facts)}  # fmt: skip


def tables(facts: Facts) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titled tables of names and values: model, machine, plan, versions."""
    machine = dict(facts.part("machine"))
    size = number(machine.pop("memory_bytes", None))
    named = [("Model", facts.part("model")), ("Machine", machine | ({"memory": memory(size / 2**20)} if size else {})),
             ("Execution plan", facts.part("plan")), ("Versions", facts.part("versions"))]  # fmt: skip
    return [(title, list(flat(values))) for title, values in named if values]


def flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as (dotted name, text) pairs."""
    for key, value in values.items():
        name = f"{above} › {key}" if above else str(key)
        name = name.replace("_", " ")
        if isinstance(value, dict) and value:
            yield from flat(value, name)
        else:
            yield name, _plain(value)


def _plain(value: object) -> str:
    if value is None or value in ("", [], {}):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
