"""The charts of a run: loss with its held-out scores, learning rate, gradient norm, speed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from tutelage.report.facts import Facts
from tutelage.report.measures import measures
from tutelage.report.svg import Chart, Mark, Point, Series, draw
from tutelage.report.words import count, score

WIDE, NARROW, SMALL = (1040, 360), (358, 290), (340, 190)


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart as drawn for a wide and a narrow page, with the entries of its legend as (look, meaning)."""

    title: str
    wide: Markup
    narrow: Markup
    legend: tuple[tuple[str, str], ...]


def smooth(points: Sequence[Point]) -> tuple[list[Point], int]:
    """The mean over a window around each step, and the window's length in steps; 1 where there is little to smooth."""
    window = len(points) // 20 * 2 + 1
    if window < 3:
        return [], 1
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    half = window // 2
    means = []
    for index, (x, _) in enumerate(points):
        # Near the ends the window shrinks on both sides alike: a lopsided mean would bend the curve there.
        reach = min(half, index, len(points) - 1 - index)
        means.append((x, (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)))
    return means, window


def loss_figure(facts: Facts) -> Figure | None:
    """Training loss and held-out loss over steps, or None before the first number."""
    train = _points(facts.of("step", "loss"), "loss")
    held = _points(facts.of("validated", "loss"), "loss")
    if not train and not held:
        return None
    means, window = smooth(train)
    series = [Series("each step", tuple(train), "raw" if means else "line")]
    legend = [(series[0].look, "training loss, each step")]
    if means:
        series.append(Series("mean", tuple(means), "line"))
        legend.append(("line", f"training loss, mean over {window} steps"))
    notes: list[tuple[Point, str]] = []
    if held:
        series.append(Series("held-out", tuple(held), "dots"))
        legend.append(("dots", "held-out loss"))
        best = min(held, key=lambda point: point[1])
        notes = [(point, score(point[1])) for point in dict.fromkeys((held[0], best, held[-1]))]
    marks, drawn = _marks(facts), tuple(one for one in series if one.points)
    chart = Chart("loss", "Loss over optimiser steps", _description(train, held), f"loss ({measures(facts.task).unit})", drawn,
                  marks, tuple(_apart(notes)), zero=True)  # fmt: skip
    legend = [entry for entry, one in zip(legend, series) if one.points]
    if any(mark.look == "event" for mark in marks):
        legend.append(("event", "continued after an interruption"))
    return Figure("Loss", draw(chart, *WIDE), draw(chart, *NARROW), tuple(legend))


def small_figures(facts: Facts) -> list[Figure]:
    """Learning rate, gradient norm and speed, as far as they were recorded."""
    figures = []
    for key, title, unit in (
        ("learning_rate", "Learning rate", "learning rate"),
        ("gradient_norm", "Gradient norm", "gradient norm before clipping"),
        ("tokens_per_second", "Speed", "tokens per second"),
    ):
        points = _points(facts.of("step", key), key)
        if points:
            low, high = min(y for _, y in points), max(y for _, y in points)
            description = f"{title} over {count(len(points))} steps, between {low:.4g} and {high:.4g}."
            chart = Chart(
                key.replace("_", "-"), title, description, unit, (Series(title, tuple(points), "line"),), zero=True
            )
            drawn = draw(chart, *SMALL, wanted=3)
            figures.append(Figure(title, drawn, drawn, ()))
    return figures


def _points(events: list[dict[str, Any]], key: str) -> list[Point]:
    return [(float(event["step"]), float(event[key])) for event in events]


def _apart(notes: list[tuple[Point, str]]) -> list[tuple[Point, str]]:
    """Notes whose steps are far enough apart that their texts do not meet."""
    span = max((x for (x, _), _ in notes), default=0.0) or 1.0
    kept: list[tuple[Point, str]] = []
    for note in notes:
        if all(abs(note[0][0] - other[0][0]) > 0.15 * span for other in kept):
            kept.append(note)
    return kept


def _marks(facts: Facts) -> tuple[Mark, ...]:
    """Where an epoch begins (unless there are too many to read) and where the run was continued."""
    begins: list[Mark] = []
    seen = 1
    steps = facts.of("step", "epoch")
    for before, event in pairwise(steps):
        if before["epoch"] >= seen and event["epoch"] > seen:
            seen = int(before["epoch"]) + 1
            begins.append(Mark(float(before["step"]), f"epoch {seen}"))
    resumed = [Mark(float(event["step"]), "continued", "event") for event in facts.of("resumed")]
    last = max((float(step["step"]) for step in steps), default=0.0)
    return (*(begins if len(begins) <= 12 else ()), *(mark for mark in resumed if 0 < mark.x <= last))


def _description(train: list[Point], held: list[Point]) -> str:
    parts = []
    if train:
        parts.append(
            f"Training loss over {count(len(train))} steps, from {score(train[0][1])} to {score(train[-1][1])}."
        )
    if held:
        parts.append("Held-out loss: " + ", ".join(f"{score(y)} at step {count(x)}" for x, y in held[:20]) + ".")
    return " ".join(parts)
