"""The verb `evaluate`: the untouched model first, trivial baselines beside, then the tuned one, all by the same code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.errors import UsageError
from tutelage.evaluate.files import write_lines
from tutelage.evaluate.forgetting import Probed
from tutelage.evaluate.label_next import LABEL_NEXT
from tutelage.evaluate.learning_curve import SHARES, LearningCurve, curve, smaller
from tutelage.evaluate.probing import Probe, local, shipped
from tutelage.evaluate.rows import Rows, precision_of, read_rows, recipe_of, require_columns, spec_of
from tutelage.evaluate.scoring import main_metric, metrics_for
from tutelage.evaluate.subject import Asked, Scored, least_sure, score_model
from tutelage.evaluate.summary import EVALUATION, folder_for, split_names, summary
from tutelage.recipe import Recipe
from tutelage.report.page import write as write_report
from tutelage.runs import create, find_run, plain, write_json
from tutelage.verbs.train import silent, train

PROBE_ROWS = 400  # of each of the user's own probe files
Say = Callable[[str], None]


def evaluate(
    model: str,
    *,
    data: str | None = None,
    task: str | None = None,
    metrics: str | None = None,
    slice: str | None = None,
    group: str | None = None,
    rows: int = 0,
    max_tokens: int = 256,
    skip_forgetting: bool = False,
    probes: str | None = None,
    label_next: str | None = None,
    learning_curve: bool = False,
    seed: int = 0,
    out: str | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """`metrics` with intervals, `predictions` (the file), and of a run also `untouched`, `comparison` and `forgetting`."""
    recipe = recipe_of(model)
    spec = spec_of(task, recipe, model)
    metrics_for(spec.kind, (), split_names(metrics))  # a misspelt metric fails before anything is read
    if learning_curve and recipe is None:
        raise UsageError(
            "a learning curve needs a run", where="learning_curve", why="only a run knows its training rows"
        )
    run = find_run(model) if recipe else None
    known = choose_probes(probes, skip=skip_forgetting or recipe is None)
    scored = read_rows(data, recipe, spec, most=rows)
    require_columns(scored, slice=slice, group=group)
    folder = create(folder_for(model, data, out, run))
    precision = precision_of(model) if recipe else "fp32"
    asked = Asked(spec, folder, precision, max_tokens, seed, split_names(metrics), group, known)
    untouched = score_model(model, True, "untouched", scored, asked, None, say) if recipe else None
    tuned = score_model(model, False, "tuned" if recipe else "model", scored, asked, probed(untouched), say)
    found = summary(scored, asked, untouched, tuned, slice)
    if recipe and learning_curve:
        found["learning_curve"] = grown(recipe, scored, asked, tuned, say)
    if label_next is not None:
        say(f"label next: {label_next}")
        found["label_next"] = write_lines(folder / LABEL_NEXT, least_sure(model, label_next, asked, scored))
    result: dict[str, Any] = plain(found)
    write_json(folder / EVALUATION, result)
    if run is not None:
        result["report"] = str(write_report(run))
    return result


def probed(scored: Scored | None) -> Probed | None:
    """The probes of a system that was scored before, if it was."""
    return scored.probed if scored else None


def choose_probes(folder: str | None, *, skip: bool) -> dict[str, list[Probe]] | None:
    """The shipped probes and those in `folder`, or none where nothing can have been forgotten."""
    if skip:
        return None
    return {**shipped(), **(local(folder, PROBE_ROWS) if folder else {})}


def grown(recipe: Recipe, rows: Rows, asked: Asked, whole: Scored, say: Say) -> LearningCurve:
    """Train the recipe on growing shares of its rows and score each on the same rows."""
    runs, of = [], 0
    for share in SHARES:
        run = str(asked.folder / f"share-{share:.0%}".rstrip("%"))
        part, count, of = smaller(recipe, share, Path(run).with_name(f"{Path(run).name}-rows"))
        say(f"learning curve: training on {count} rows, {share:.0%} of them")
        train(part, out=run, say=say)
        small = Asked(
            asked.spec,
            create(Path(run) / "scored"),
            asked.precision,
            asked.max_tokens,
            asked.seed,
            (),
            asked.group,
        )
        runs.append((share, count, score_model(run, False, "tuned", rows, small, None, say).predictions))
    runs.append((1.0, of, whole.predictions))
    return curve(main_metric(asked.task, whole.predictions), runs, seed=asked.seed)
