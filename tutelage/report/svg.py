"""Small charts as inline SVG: round ticks, lines, dots, marks. Colours and strokes are classes of page.css.

Text of a chart is never stretched: a chart is drawn once for each width it is read at.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

MAX_POINTS = 600  # about one for every other pixel of the widest chart
MIN_LABEL_GAP = 52.0


@dataclass(frozen=True, slots=True)
class Series:
    """One curve. `look` is "raw" (thin and pale), "line" (thick) or "dots" (dashed, with points)."""

    name: str
    points: tuple[Point, ...]
    look: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at `x`, with its meaning in a word; `look` is "epoch" or "event"."""

    x: float
    text: str
    look: str = "epoch"


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows. `notes` are values written beside their points; `zero` lets the y axis begin at 0."""

    name: str
    title: str
    description: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    notes: tuple[tuple[Point, str], ...] = ()
    zero: bool = False


@dataclass(frozen=True, slots=True)
class _Frame:
    """The plot's box and its scales."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: Point
    y_range: Point

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def round_step(span: float, wanted: int) -> float:
    """The step of 1, 2 or 5 times a power of ten that cuts `span` into about `wanted` parts."""
    power = 10.0 ** math.floor(math.log10(span / wanted))
    return min((1 * power, 2 * power, 5 * power, 10 * power), key=lambda step: abs(math.log(span / step / wanted)))


def round_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    if high - low <= max(1e-9 * abs(high), 1e-9 * abs(low), 1e-300):  # one value, give or take rounding
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    step = round_step(high - low, wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_text(value: float, step: float) -> str:
    """A tick's label with just the digits that its step needs: 0.25, 15k, 2e-4."""
    if value == 0:
        return "0"
    if abs(value) < 1000 * step < 1.0 or step >= 1e12:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if step >= limit:
            return f"{value / limit:,.0f}{letter}"
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def thinned(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= limit:
        return list(points)
    buckets = limit // 2
    kept: list[Point] = []
    for index in range(buckets):
        bucket = points[index * len(points) // buckets : (index + 1) * len(points) // buckets]
        extremes = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        kept += sorted(extremes)
    return kept


def draw(chart: Chart, width: int, height: int, wanted: int = 5) -> Markup:
    """The chart as one `<svg>`, or an empty string where it has no points."""
    xs = [x for series in chart.series for x, _ in series.points]
    ys = [y for series in chart.series for _, y in series.points]
    if not xs:
        return Markup("")
    y_ticks = round_ticks(min(0.0, *ys) if chart.zero else min(ys), max(ys), wanted)
    y_texts = [tick_text(tick, y_ticks[1] - y_ticks[0]) for tick in y_ticks]
    x_low, x_high = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    margin = 14 + 7.2 * max(map(len, y_texts))
    frame = _Frame(margin, width - 16, 38, height - 26, (x_low, x_high), (y_ticks[0], y_ticks[-1]))
    name = f"{chart.name}-{width}"
    body = [
        Markup('<title id="{0}-t">{1}</title><desc id="{0}-d">{2}</desc>').format(name, chart.title, chart.description),
        _text(0, 14, chart.y_label, "label"),
        *_y_axis(frame, y_ticks, y_texts),
        *_x_axis(frame, max(2, int((frame.right - frame.left) / 70))),
        *_marks(frame, chart.marks),
        *(part for series in chart.series for part in _curve(frame, series)),
        *(_note(frame, point, text) for point, text in chart.notes),
    ]
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{n}-t {n}-d">{body}</svg>'
    ).format(w=width, h=height, n=name, body=Markup("").join(body))


def bar(shares: Iterable[tuple[float, str]], height: int = 10) -> Markup:
    """A horizontal bar of (share of the whole, class) parts; the numbers stand beside it, so screen readers skip it."""
    parts, at = [], 0.0
    for share, look in shares:
        size = max(0.0, min(100.0 * share, 100.0 - at))
        rect = Markup('<rect class="{}" x="{}" width="{}" height="{}"/>')
        parts.append(rect.format(look, _pixel(at), _pixel(max(size, 0.4) if share else 0), height))
        at += size
    return Markup(
        '<svg class="bar" viewBox="0 0 100 {h}" preserveAspectRatio="none" aria-hidden="true">{body}</svg>'
    ).format(h=height, body=Markup("").join(parts))


@dataclass(frozen=True, slots=True)
class Span:
    """A value with its interval; `look` is a class of page.css."""

    value: float
    low: float
    high: float
    look: str


def spans(
    items: Sequence[Span], *, least: float | None = None, most: float | None = None, zero: bool = False
) -> Markup:
    """Intervals one below the other on one scale, the values marked; `zero` draws where nothing changes."""
    if not items:
        return Markup("")
    low = min(item.low for item in items) if least is None else least
    high = max(item.high for item in items) if most is None else most
    pad = (high - low) * 0.04 or 1.0
    low, high = (low - pad if least is None else low), (high + pad if most is None else high)

    def at(value: float) -> float:
        return 100 * (value - low) / ((high - low) or 1.0)

    parts = []
    if zero:
        parts.append(Markup('<path class="axis" d="M{0} 0V{1}"/>').format(_pixel(at(0.0)), 10 * len(items)))
    for index, item in enumerate(items):
        left, right, middle = at(item.low), at(item.high), at(item.value)
        rect = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
        parts.append(rect.format(f"span {item.look}", _pixel(left), 10 * index + 3, _pixel(max(right - left, 0.4)), 4))
        parts.append(rect.format(f"value {item.look}", _pixel(middle - 0.5), 10 * index + 1, 1, 8))
    return Markup(
        '<svg class="spans" viewBox="0 0 100 {h}" preserveAspectRatio="none" aria-hidden="true">{body}</svg>'
    ).format(h=10 * len(items), body=Markup("").join(parts))


def _pixel(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, look: str, anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        look, _pixel(x), _pixel(y), anchor, text
    )


def _line(x1: float, y1: float, x2: float, y2: float, look: str) -> Markup:
    return Markup('<path class="{}" d="M{} {}L{} {}"/>').format(look, *map(_pixel, (x1, y1, x2, y2)))


def _y_axis(frame: _Frame, ticks: list[float], texts: list[str]) -> Iterable[Markup]:
    for index, (tick, text) in enumerate(zip(ticks, texts)):
        y = frame.y(tick)
        yield _line(frame.left, y, frame.right, y, "grid" if index else "axis")
        yield _text(frame.left - 8, y + 4, text, "tick", "end")


def _x_axis(frame: _Frame, wanted: int) -> Iterable[Markup]:
    low, high = frame.x_range
    step = max(1.0, round_step(high - low, wanted))
    for index in range(math.ceil(low / step), math.floor(high / step) + 1):
        x = frame.x(index * step)
        yield _line(x, frame.bottom, x, frame.bottom + 4, "axis")
        yield _text(x, frame.bottom + 18, tick_text(index * step, step), "tick", "middle")


def _marks(frame: _Frame, marks: tuple[Mark, ...]) -> Iterable[Markup]:
    ends = {"epoch": -MIN_LABEL_GAP, "event": -MIN_LABEL_GAP}  # where the last label of a kind began
    for mark in marks:
        x = frame.x(mark.x)
        yield _line(x, frame.top - 8, x, frame.bottom, mark.look)
        fits = x - ends[mark.look] >= MIN_LABEL_GAP and x + MIN_LABEL_GAP <= frame.right + 16
        if mark.text and fits:
            ends[mark.look] = x
            yield _text(x + 4, frame.top if mark.look == "epoch" else frame.bottom - 6, mark.text, "mark")


def _curve(frame: _Frame, series: Series) -> Iterable[Markup]:
    points = [(_pixel(frame.x(x)), _pixel(frame.y(y))) for x, y in thinned(series.points)]
    if len(points) > 1 or series.look != "dots":
        path = "M" + "L".join(f"{x} {y}" for x, y in points) + ("h.1" if len(points) == 1 else "")
        yield Markup('<path class="{}" d="{}"/>').format(series.look, path)
    if series.look == "dots":
        yield from (Markup('<circle class="dot" cx="{}" cy="{}" r="4.5"/>').format(x, y) for x, y in points)


def _note(frame: _Frame, point: Point, text: str) -> Markup:
    x, y = frame.x(point[0]), frame.y(point[1])
    near_right = x + 8 + 7 * len(escape(text)) > frame.right
    above = y - 12 if y - 12 > frame.top + 4 else y + 20
    return _text(
        x - 4 if near_right else x + 8, above if near_right else y - 11, text, "note", "end" if near_right else "start"
    )
