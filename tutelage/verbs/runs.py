"""The verb `runs`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tutelage.errors import OutputError
from tutelage.report.facts import read
from tutelage.report.story import method_name, model_name, steps_done, validation
from tutelage.runs import MANIFEST, folder_bytes


def runs(*, folder: str = "runs") -> dict[str, Any]:
    """The run folders directly inside `folder`, the last changed one first. A damaged one is listed as such."""
    found = sorted(Path(folder).glob(f"*/{MANIFEST}"), key=lambda path: (-path.stat().st_mtime, path.parent.name))
    return {"folder": folder, "runs": [_summary(path.parent) for path in found]}


def _summary(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "run": str(run), "status": "damaged", "model": None, "method": None, "steps": 0,
        "loss_before": None, "loss_after": None, "bytes": folder_bytes(run), "changed": _changed(run), "problem": None,
    }  # fmt: skip
    try:
        facts = read(run)
    except OutputError as error:
        return {**summary, "problem": str(error)}
    before, after = validation(facts)
    steps = steps_done(facts)
    return {
        **summary, "status": str(facts.manifest.get("status", "unfinished")), "model": model_name(facts),
        "method": method_name(facts) or None, "steps": steps if isinstance(steps, int) else 0,
        "loss_before": before.get("loss"), "loss_after": after.get("loss"),
    }  # fmt: skip


def _changed(run: Path) -> str:
    return datetime.fromtimestamp((run / MANIFEST).stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
