"""Two bar charts side by side as one SVG: tokens per second and peak memory. Plain text and rectangles, both themes."""

from collections.abc import Iterator
from html import escape

from harness.contenders import CONTENDERS
from harness.tables import Result, by_name, summary

WIDTH, LABEL, BAR, GAP, TOP = 860, 190, 18, 8, 56
OURS, THEIRS, LIMIT = "#2563eb", "#94a3b8", "#d4d4d8"
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2937}.s{fill:#6b7280}"
    "@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.s{fill:#9ca3af}}"
)


def speed_svg(results: dict[str, Result], data: str = "dolly") -> str:
    """The chart of one or both methods; `results` by method name."""
    panels, top = [], 0
    for method, result in results.items():
        panel, height = chart(method, result, data, top)
        panels += panel
        top += height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" role="img">'
    return "\n".join([head, f"<style>{STYLE}</style>", *panels, "</svg>"]) + "\n"


def chart(method: str, result: Result, data: str, top: int) -> tuple[list[str], int]:
    """The bars of one method from `top` on, and the height they take."""
    figures = {name: summary(runs) for name, runs in by_name(result["runs"], data).items()}
    ordered = sorted(
        ((n, f) for n, f in figures.items() if f), key=lambda pair: -pair[1]["tokens_per_second"]["median"]
    )
    title = "LoRA, rank 16 on all linear layers" if method == "lora" else "Full fine-tuning"
    half = (WIDTH - LABEL - 20) // 2
    lines = [
        text(8, top + 22, f"{title}: SmolLM2-135M, {data.title()} rows, 8 per step, 2 CPU threads", bold=True),
        text(LABEL, top + 44, "useful tokens per second", small=True),
        text(LABEL + half + 10, top + 44, "peak memory, MiB", small=True),
    ]
    most = {key: max((f[key]["median"] for _, f in ordered), default=1.0) for key in ("tokens_per_second", "peak_mib")}
    for row, (name, found) in enumerate(ordered):
        y = top + TOP + row * (BAR + GAP)
        lines.append(text(8, y + 14, name))
        for column, key in enumerate(("tokens_per_second", "peak_mib")):
            if name == "limit" and key == "peak_mib":
                continue
            lines += bar(LABEL + column * (half + 10), y, half - 60, found[key]["median"], most[key], name)
    return lines, TOP + len(ordered) * (BAR + GAP) + 16


def bar(x: int, y: int, room: int, value: float, most: float, name: str) -> Iterator[str]:
    """One bar and its figure."""
    width = max(1.0, room * value / most)
    colour = {"tutelage": OURS, "limit": LIMIT}.get(CONTENDERS[name].tool, THEIRS)
    yield f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}"/>'
    yield text(x + round(width) + 6, y + 14, f"{value:,.0f}")


def text(x: float, y: float, words: str, *, small: bool = False, bold: bool = False) -> str:
    """A line of text."""
    more = ' class="s"' if small else ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}"{more}>{escape(words)}</text>'
