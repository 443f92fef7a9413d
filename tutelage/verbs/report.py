"""The verb `report`."""

from typing import Any

from tutelage.report.page import write
from tutelage.runs import find_run


def report(run: str) -> dict[str, Any]:
    """`report`: the path of the HTML file that was written into the run folder."""
    return {"report": write(find_run(run))}
