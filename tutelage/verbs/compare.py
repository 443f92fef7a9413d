"""The verb `compare`: two models or runs on the same rows, with paired intervals and a plain verdict for each metric."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tutelage.errors import UsageError
from tutelage.evaluate.comparing import compare_predictions
from tutelage.evaluate.files import write_lines
from tutelage.evaluate.forgetting import forgetting
from tutelage.evaluate.judge import judge as judge_pairs
from tutelage.evaluate.rows import read_rows, recipe_of, require_columns, spec_of
from tutelage.evaluate.scoring import main_metric, metrics_for
from tutelage.evaluate.slices import slice_differences
from tutelage.evaluate.subject import Asked, score_model
from tutelage.evaluate.summary import EVALUATION, folder_for, split_names
from tutelage.metrics import Prediction
from tutelage.runs import create, plain, write_json
from tutelage.verbs.evaluate import choose_probes
from tutelage.verbs.train import silent

JUDGED = ("chat", "seq2seq", "extract")
Say = Callable[[str], None]


def compare(
    first: str,
    second: str,
    *,
    data: str | None = None,
    task: str | None = None,
    metrics: str | None = None,
    group: str | None = None,
    rows: int = 0,
    max_tokens: int = 256,
    skip_forgetting: bool = False,
    probes: str | None = None,
    slice: str | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    seed: int = 0,
    out: str | None = None,
    say: Say = silent,
) -> dict[str, Any]:
    """`scores` of both, `differences` of the second from the first with verdicts (also by `slices`), `changed` rows, and more."""
    recipe = recipe_of(second) or recipe_of(first)
    spec = spec_of(task, recipe, second)
    metrics_for(spec.kind, (), split_names(metrics))
    check_judge(spec.kind, judge, judge_model)
    known = choose_probes(probes, skip=skip_forgetting)
    scored = read_rows(data, recipe, spec, most=rows)
    require_columns(scored, slice=slice, group=group)
    folder = create(folder_for(f"{first}-{second}", data, out, None))
    asked = Asked(spec, folder, "fp32", max_tokens, seed, split_names(metrics), group, known)
    one = score_model(first, False, "first", scored, asked, None, say)
    two = score_model(second, False, "second", scored, asked, one.probed, say)
    # A row that is too long for one of them is scored for neither.
    both = {p.at for p in one.predictions} & {p.at for p in two.predictions}
    before, after = ([p for p in side.predictions if p.at in both] for side in (one, two))
    main = main_metric(spec.kind, after)
    names = (first, second) if one.name == two.name else (one.name, two.name)
    found = compare_predictions(names, before, after, metrics_for(spec.kind, after, asked.metrics), main)
    lost = forgetting(one.probed, two.probed, seed=seed) if one.probed and two.probed else None
    result: dict[str, Any] = plain(
        {
            "task": spec.kind, "data": scored.name, "main_metric": main, "too_long": sorted({*one.too_long, *two.too_long}),
            **{name: getattr(found, name) for name in ("first", "second", "n", "differences", "changed")},
            "scores": [asdict(one.scores), asdict(two.scores)], "forgetting": lost, "judge": None,
            "slices": slice_differences(before, after, slice, main) if slice else [],
        }
    )  # fmt: skip
    if judge and judge_model:
        result["judge"] = judged(judge, judge_model, before, after, asked, say)
    write_json(folder / EVALUATION, result)
    return result


def check_judge(task: str, url: str | None, model: str | None) -> None:
    """Refuse half a judge, and a task without answers, before anything is computed."""
    if bool(url) != bool(model):
        raise UsageError("a judge is an address and a model", where="judge", fix="--judge URL --judge-model NAME")
    if url and task not in JUDGED:
        raise UsageError(
            f"there is nothing to judge in the task {task}",
            where="judge",
            why=f"answers are judged: {', '.join(JUDGED)}",
        )


def judged(
    url: str, model: str, first: Sequence[Prediction], second: Sequence[Prediction], asked: Asked, say: Say
) -> dict[str, Any]:
    """The judge's outcome, its rows in a file."""
    found: dict[str, Any] = plain(judge_pairs(first, second, url=url, model=model, seed=asked.seed, say=say))
    return {**found, "rows": write_lines(asked.folder / "judge.jsonl", found["rows"])}
