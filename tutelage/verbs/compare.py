"""The verb `compare`: two models or runs on the same rows, with paired intervals and a plain verdict for each metric."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tutelage.evaluate.comparing import compare_predictions
from tutelage.evaluate.forgetting import forgetting
from tutelage.evaluate.rows import read_rows, recipe_of, spec_of
from tutelage.evaluate.scoring import main_metric, metrics_for
from tutelage.evaluate.subject import Asked, score_model
from tutelage.evaluate.summary import EVALUATION, folder_for, split_names
from tutelage.runs import create, plain, write_json
from tutelage.verbs.evaluate import choose_probes
from tutelage.verbs.train import silent


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
    seed: int = 0,
    out: str | None = None,
    say: Callable[[str], None] = silent,
) -> dict[str, Any]:
    """`scores` of both, `differences` of the second from the first with verdicts, `changed` rows, and `forgetting`."""
    recipe = recipe_of(second) or recipe_of(first)
    spec = spec_of(task, recipe, second)
    metrics_for(spec.kind, (), split_names(metrics))
    known = choose_probes(probes, skip=skip_forgetting)
    scored = read_rows(data, recipe, spec, most=rows)
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
            "scores": [asdict(one.scores), asdict(two.scores)], "forgetting": lost,
        }
    )  # fmt: skip
    write_json(folder / EVALUATION, result)
    return result
