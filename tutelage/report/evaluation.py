"""Evaluations of a run as values for the page: scores with intervals, confusion, learning against forgetting, rows to read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tutelage.report.facts import listed
from tutelage.report.marked import Marked, Piece, entities, in_context, kinds_of
from tutelage.report.svg import Span, bar, spans
from tutelage.report.words import clipped, count, duration, number, ratio, score
from tutelage.runs import FORGETTING, read_json

FILE = "evaluation.json"
MAX_TEXT = 1200
MOST_CLASSES = 30  # a larger confusion matrix cannot be read; its commonest mistakes can
ANSWERS = {"reference": "reference", "output": "after", "before": "before"}  # key of a row → its look
STRETCH = 5.0  # half-widths of an interval that the learning-and-forgetting plot reaches to either side


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of all systems: texts, a picture of the intervals, the verdict on the tuned model."""

    name: str
    cells: tuple[str, ...]
    picture: Markup
    verdict: str
    said: str
    signature: str


def evaluations(run: Path) -> list[dict[str, Any]]:
    """Every evaluation in the run folder, by name; what cannot be read as one is left out."""
    found = []
    for path in sorted((run / "evaluation").glob(f"*/{FILE}")):
        value = read_json(path)
        if isinstance(value, dict) and isinstance(value.get("metrics"), dict):
            found.append(_evaluation(path.parent.name, value))
    return found


def aftermath(run: Path) -> dict[str, Any]:
    """What training itself measured of what was forgotten; empty where it did not."""
    path = run / FORGETTING
    found = _mapping(read_json(path)) if path.is_file() else {}
    shown = _forgetting(_mapping(found.get("forgetting")), {})
    if not shown:
        return {}
    cost = f"Measured at the end of the run on {count(found.get('rows'))} small probes, in {duration(found.get('seconds'))}."
    return {**shown, "cost": f"{cost} tutelage evaluate measures more of them, and on your own files."}


def _evaluation(name: str, value: dict[str, Any]) -> dict[str, Any]:
    systems = _systems(value)
    differences = _mapping(_mapping(value.get("comparison")).get("differences"))
    return {
        "name": name, "data": value.get("data", ""), "rows": count(value.get("rows")), "task": value.get("task", ""),
        "heads": [head for head, _ in systems], "scores": [_row(m, systems, differences) for m in value["metrics"]],
        "main": value.get("main_metric", ""),
        "slices": _slices([_mapping(one) for one in listed(value.get("slices"))]),
        "confusion": _confusion(_mapping(value.get("confusion"))),
        "classes": [_class(one) for one in listed(value.get("per_class"))],
        "forgetting": _forgetting(_mapping(value.get("forgetting")), differences),
        "curve": _curve(_mapping(value.get("learning_curve"))),
        **_cases(value),
    }  # fmt: skip


def _systems(value: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(heading, metrics) of the untouched model, the model, and each baseline."""
    untouched = _mapping(value.get("untouched"))
    tuned = "Tuned model" if untouched else str(value.get("model", "Model"))
    found = [("Untouched model", _mapping(untouched.get("metrics")))] if untouched else []
    found.append((tuned, value["metrics"]))
    baselines = [_mapping(one) for one in listed(value.get("baselines"))]
    return [*found, *((f"Baseline: {one.get('system', '')}", _mapping(one.get("metrics"))) for one in baselines)]


def _row(name: str, systems: list[tuple[str, dict[str, Any]]], differences: dict[str, Any]) -> Row:
    known = [_mapping(metrics.get(name)) for _, metrics in systems]
    looks = ["before", "after"] if systems[0][0] == "Untouched model" else ["after"]
    drawn = [span for one, look in zip(known, looks) if (span := _span(one, look)) is not None]
    said = _mapping(differences.get(name))
    signature = next((str(one["signature"]) for one in known if one.get("signature")), "")
    method = next((str(one["method"]) for one in known if one.get("method")), "")
    return Row(
        name.replace("_", " "), tuple(_interval(one) for one in known), spans(drawn),
        _verdict(said), _sentence(said), "; ".join(part for part in (method, signature) if part),
    )  # fmt: skip


def _span(one: dict[str, Any], look: str) -> Span | None:
    value, low, high = (number(one.get(key)) for key in ("value", "low", "high"))
    if value is None:
        return None
    return Span(value, low if low is not None else value, high if high is not None else value, look)


def _interval(one: dict[str, Any]) -> str:
    if number(one.get("value")) is None:
        return score(None)
    return f"{score(one['value'])} [{score(one.get('low'))}, {score(one.get('high'))}]"


def _verdict(one: dict[str, Any]) -> str:
    said = one.get("verdict")
    return said if isinstance(said, str) and said in ("better", "worse") else ""


def _sentence(one: dict[str, Any]) -> str:
    if not one:
        return ""
    said = str(one.get("verdict", ""))
    return f"cannot tell with n = {count(one.get('n'))}" if said == "cannot tell" else said


def _slices(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All on one scale, from 0 to 1 or as far as they reach."""
    values = [_mapping(one.get("score")) for one in found]
    drawn = [_span(value, "after") for value in values]
    least = min([0.0, *(span.low for span in drawn if span)])
    most = max([1.0, *(span.high for span in drawn if span)])
    return [
        {
            "by": one.get("by", ""), "value": one.get("value", ""), "score": _interval(value), "n": count(value.get("n")),
            "picture": spans([span] if span else [], least=least, most=most),
        }
        for one, value, span in zip(found, values, drawn)
    ]  # fmt: skip


def _confusion(found: dict[str, Any]) -> dict[str, Any]:
    """The matrix with a shade (0 to 4) of each cell's share of its row, or only its commonest mistakes."""
    names, counts = listed(found.get("names")), listed(found.get("counts"))
    mistakes = [
        (str(r), str(g), count(n)) for r, g, n in (one for one in listed(found.get("frequent")) if len(one) == 3)
    ]
    if not names:
        return {}
    rows = []
    for name, cells in zip(names, counts):
        total = sum(number(cell) or 0.0 for cell in cells)
        shades = [min(4, int(5 * (ratio(cell, total) or 0.0))) if cell else -1 for cell in cells]
        rows.append((str(name), [(count(cell), shade) for cell, shade in zip(cells, shades)]))
    return {"names": names, "rows": rows if len(names) <= MOST_CLASSES else [], "mistakes": mistakes}


def _class(one: Any) -> dict[str, Any]:
    found = _mapping(one)
    f1 = _mapping(found.get("f1"))
    return {
        "name": found.get("name", ""), "support": count(found.get("support")),
        "cells": [_interval(_mapping(found.get(key))) for key in ("precision", "recall", "f1")],
        "bar": bar([(number(f1.get("value")) or 0.0, "on"), (1, "off")]),
    }  # fmt: skip


def _forgetting(found: dict[str, Any], learnt: dict[str, Any]) -> dict[str, Any]:
    """Probes before and after, and everything learnt and lost on one scale: how far the interval is from no change."""
    if not found:
        return {}
    before, after, probes = (_mapping(found.get(key)) for key in ("before", "after", "probes"))
    rows = [
        {"name": name.replace("_", " "), "before": _interval(_mapping(before.get(name))),
         "after": _interval(_mapping(after.get(name))), "verdict": _verdict(_mapping(one)), "said": _sentence(_mapping(one))}
        for name, one in probes.items()
    ]  # fmt: skip
    worse = [row["name"] for row in rows if row["verdict"] == "worse"]
    divergence = _mapping(found.get("divergence"))
    plotted = [("learnt", name, _mapping(one)) for name, one in learnt.items()]
    plotted += [("kept", name, _mapping(one)) for name, one in probes.items()]
    return {
        "rows": rows, "divergence": _interval(divergence) if divergence else "",
        "sentence": f"It became worse at: {', '.join(worse)}." if worse else
        "No probe shows that it became worse; small losses can hide inside the intervals.",
        "plot": [(kind, name.replace("_", " "), picture, _sentence(one)) for kind, name, one in plotted
                 if (picture := _moved(one))],
    }  # fmt: skip


def _moved(one: dict[str, Any]) -> Markup:
    """The difference in half-widths of its interval, better to the right, or nothing where it has no direction."""
    value, low, high = (number(one.get(key)) for key in ("value", "low", "high"))
    better = one.get("higher_is_better")
    if value is None or low is None or high is None or high <= low or better is None:
        return Markup("")
    sign, half = (1.0 if better else -1.0), (high - low) / 2
    ends = sorted((sign * low / half, sign * high / half))
    look = _verdict(one) or "unsure"
    inside = [max(-STRETCH, min(STRETCH, end)) for end in (sign * value / half, *ends)]
    return spans([Span(inside[0], inside[1], inside[2], look)], least=-STRETCH, most=STRETCH, zero=True)


def _curve(found: dict[str, Any]) -> dict[str, Any]:
    if not found:
        return {}
    points = [_mapping(one) for one in listed(found.get("points"))]
    values = [span for one in points if (span := _span(_mapping(one.get("score")), "after")) is not None]
    least, most = min((s.low for s in values), default=0.0), max((s.high for s in values), default=1.0)
    return {
        "sentence": str(found.get("sentence", "")), "metric": str(found.get("metric", "")).replace("_", " "),
        "points": [
            (count(one.get("rows")), _interval(_mapping(one.get("score"))), spans([span], least=least, most=most))
            for one, span in zip(points, values)
        ],
    }  # fmt: skip


def _cases(value: dict[str, Any]) -> dict[str, Any]:
    """Rows to read, with their entities and answers marked."""
    lists = {"worst": listed(value.get("worst")), "changed": listed(_mapping(value.get("comparison")).get("changed"))}
    tagged = value.get("task") == "tag"
    rows = [_mapping(one) for some in lists.values() for one in some] if tagged else []
    kinds = kinds_of([listed(row.get(key)) for row in rows for key in ANSWERS])
    return {name: [_example(_mapping(one), kinds if tagged else None) for one in some] for name, some in lists.items()}


def _example(found: dict[str, Any], kinds: list[str] | None) -> dict[str, Any]:
    context = str(found.get("context") or "")
    looks = {look: [*map(str, _several(found.get(key)))] for key, look in ANSWERS.items()}
    return {
        "at": f"{found.get('file', '')}:{found.get('row', '')}", "score": score(found.get("score")),
        "input": _plain(found.get("input")), "context": in_context(context, looks, MAX_TEXT) if context else None,
        **{key: _answer(str(found.get("input")), found.get(key), kinds) for key in ANSWERS},
    }  # fmt: skip


def _answer(text: str, value: object, kinds: list[str] | None) -> Marked:
    words, tags = text.split(" "), listed(value)
    if kinds is None or not tags or len(words) != len(tags) or not all(isinstance(tag, str) for tag in tags):
        return _plain(value)
    return entities(words, tags, kinds)


def _plain(value: object) -> Marked:
    shown, rest = clipped(_text(value), MAX_TEXT)
    return Marked((Piece(shown),), rest)


def _several(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(value: object) -> str:
    return " · ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
