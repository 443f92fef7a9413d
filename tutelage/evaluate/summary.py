"""Everything that an evaluation found, as the JSON document that is printed, kept and reported."""

from pathlib import Path
from typing import Any

from tutelage.evaluate.baselines import BASELINES, FOR_TASK
from tutelage.evaluate.comparing import compare_predictions
from tutelage.evaluate.confusion import confusion, per_class, per_entity
from tutelage.evaluate.examples import worst
from tutelage.evaluate.files import write_predictions
from tutelage.evaluate.forgetting import forgetting
from tutelage.evaluate.rows import Rows
from tutelage.evaluate.scoring import has_plain_tags, is_ranking, main_metric, metrics_for, score
from tutelage.evaluate.slices import slices
from tutelage.evaluate.subject import Asked, Scored
from tutelage.evaluate.types import Scores
from tutelage.metrics.tag_accuracy import by_word

EVALUATION = "evaluation.json"
TABLES = {"classify": per_class, "tag": per_entity}


def summary(rows: Rows, asked: Asked, untouched: Scored | None, tuned: Scored, slice_by: str | None) -> dict[str, Any]:
    """Scores of the untouched model, the baselines and the model itself, compared; what was forgotten; rows to read."""
    task, predictions = asked.task, tuned.predictions
    kind, items = ("classify", by_word(predictions)) if has_plain_tags(task, predictions) else (task, predictions)
    labelled = not is_ranking(predictions)
    main = main_metric(task, predictions)
    names = metrics_for(task, predictions, asked.metrics)
    found: dict[str, Any] = {
        "model": tuned.name, "task": task, "data": rows.name, "rows": len(predictions), "main_metric": main,
        "metrics": tuned.scores.metrics, "left_out": tuned.scores.left_out, "predictions": tuned.scores.predictions,
        "dropped": [{"file": one.at.source, "row": one.at.row, "reason": one.reason} for one in rows.dropped],
        "too_long": list(tuned.too_long), "untouched": untouched.scores if untouched else None,
        "baselines": baselines(rows, asked, tuned), "comparison": None, "forgetting": None,
        "slices": slices(predictions, slice_by, main, seed=asked.seed) if slice_by else [],
        "confusion": confusion(items) if kind == "classify" and labelled else None,
        "per_class": TABLES[kind](items, seed=asked.seed) if kind in TABLES and labelled else [],
        "worst": worst(predictions, main),
    }  # fmt: skip
    if untouched is not None:
        found["comparison"] = compare_predictions(
            (untouched.name, tuned.name), untouched.predictions, predictions, names, main
        )
        if untouched.probed is not None and tuned.probed is not None:
            found["forgetting"] = forgetting(untouched.probed, tuned.probed, seed=asked.seed)
    return found


def baselines(rows: Rows, asked: Asked, tuned: Scored) -> list[Scores]:
    """The trivial systems that fit the task, scored by the same code on the same rows."""
    names = metrics_for(asked.task, tuned.predictions, asked.metrics)
    found: list[Scores] = []
    if is_ranking(tuned.predictions):
        return found
    for name in FOR_TASK[asked.task]:
        predictions = BASELINES.get(name)(tuned.predictions, rows.training)
        file = write_predictions(asked.folder / f"baseline-{name}.jsonl", predictions)
        found.append(score(name, predictions, names, seed=asked.seed, file=file))
    return found


def folder_for(model: str, data: str | None, out: str | None, run: Path | None) -> Path:
    """Where an evaluation is kept: inside a run's folder, else below runs/evaluation."""
    if out is not None:
        return Path(out)
    stem = Path(data).stem if data else "held-out"
    if run is not None:
        return run / "evaluation" / stem
    return Path("runs") / "evaluation" / f"{_file_name(model)}-{stem}"


def split_names(given: str | None) -> tuple[str, ...]:
    """Names in an option such as `chrf,rouge_l`."""
    return tuple(name.strip() for name in given.split(",") if name.strip()) if given else ()


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(text).name or text)
