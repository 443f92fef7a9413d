"""The report of a data check: one HTML file that asks for nothing from anywhere and runs no script."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tutelage.report.page import CONTROLS
from tutelage.report.sections import shares
from tutelage.report.words import count, things
from tutelage.runs import create, write_text

MOST_BARS = 40


def render(result: dict[str, Any]) -> str:
    """The result of `data check` as HTML; every text of the data is escaped and stands in a <bdi>."""
    package = files("tutelage.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(package.joinpath("data_page.html.jinja").read_text(encoding="utf-8"))
    profile = result["profile"]
    html = template.render(
        css=Markup(package.joinpath("page.css").read_text(encoding="utf-8")),
        names=[file["file"] for file in profile["files"]],
        figures=_figures(result),
        findings=[
            {**finding, "count": count(finding["count"])} for level in ("error", "warning", "info")
            for finding in result["findings"] if finding["severity"] == level
        ],
        plots=_plots(profile),
        files=profile["files"],
        advice=result["advice"],
        notes=result["notes"],
        count=count,
    )  # fmt: skip
    return html.translate(CONTROLS).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def write(path: Path, result: dict[str, Any]) -> Path:
    """`path`, written with the report of `result`."""
    create(path.parent)
    write_text(path, render(result))
    return path


def _figures(result: dict[str, Any]) -> list[tuple[str, str]]:
    kinds = [finding["severity"] for finding in result["findings"]]
    return [
        ("Rows", count(result["rows"])),
        ("Different rows", count(result["advice"]["different_rows"])),
        *((name, things(kinds.count(level), "kind")) for level, name in (("error", "Errors"), ("warning", "Warnings"))),
    ]


def _plots(profile: dict[str, Any]) -> list[dict[str, Any]]:
    """Counts as bars: labels, lengths, turns, languages; a plot with one bar says nothing and is left out."""
    lengths = profile["histograms"]
    plots = [
        ("Labels", profile["labels"]),
        ("Characters in a prompt", lengths["prompt"]),
        ("Characters in an answer", lengths["answer"]),
        ("Answers in a conversation", profile["assistant_turns"]),
        ("Languages of a sample", profile["languages"]),
    ]
    return [
        {"title": title, "rows": shares(dict(list(counts.items())[:MOST_BARS]), sum(counts.values())),
         "rest": max(0, len(counts) - MOST_BARS)}
        for title, counts in plots if len(counts) > 1
    ]  # fmt: skip
