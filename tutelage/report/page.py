"""The report of a run: one HTML file that asks for nothing from anywhere and runs no script."""

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tutelage.report import curves, sections, story
from tutelage.report.evaluation import aftermath, evaluations
from tutelage.report.facts import read
from tutelage.report.measures import measures
from tutelage.runs import write_text

REPORT = "report.html"
# Control characters are shown as their pictures: U+0000 and others may not stand in HTML at all.
CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


def render(run: Path) -> str:
    """The report of the run folder `run` as HTML; whatever the run has not written yet is left out."""
    facts = read(run)
    package = files("tutelage.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(package.joinpath("page.html.jinja").read_text(encoding="utf-8"))
    html = template.render(
        css=Markup(package.joinpath("page.css").read_text(encoding="utf-8")),
        name=facts.name,
        headline=story.headline(facts),
        figures=story.figures(facts),
        loss=curves.loss_figure(facts),
        small=curves.small_figures(facts),
        incidents=story.incidents(facts),
        validations=story.validations(facts),
        scores=story.scores(facts),
        evaluations=evaluations(run),
        aftermath=aftermath(run),
        samples=sections.samples(facts),
        measures=measures(facts.task),
        contract=sections.contract(facts),
        data=sections.data(facts),
        trained=sections.trained(facts),
        tables=sections.tables(facts),
        recipe=facts.recipe,
        version=facts.part("versions").get("tutelage", ""),
    )
    # A lone surrogate, which JSON can spell, has no UTF-8: it becomes U+FFFD.
    return html.translate(CONTROLS).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def write(run: Path) -> Path:
    """The path of `report.html`, written into the run folder `run`."""
    path = run / REPORT
    write_text(path, render(run))
    return path
