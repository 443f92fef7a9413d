"""The verbs `data check` and `data prepare`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tutelage.data import folder as layout
from tutelage.data import partials
from tutelage.data import sources as data_sources
from tutelage.data.assemble import assemble
from tutelage.data.quality.check import THRESHOLD, Plan, Report, Source, check, report_of, scans
from tutelage.errors import DataError, MissingInputError, Problem, UsageError, need
from tutelage.recipe import DataSpec, read_data
from tutelage.report import data_page

Say = Callable[[str], None]
HELD_OUT = ("test", "dev", "valid", "validation", "eval", "heldout", "held_out", "holdout")


def quiet(text: str) -> None:
    """Hear a line and do nothing with it."""


def data_check(
    files: Sequence[str] | str,
    *,
    test: Sequence[str] = (),
    format: str | None = None,
    near: float = THRESHOLD,
    labels: bool = False,
    encoder: str = "minilm-l6",
    chat_model: str = "smollm2-135m",
    html: str | None = None,
    processes: int = 0,
    shard: str | None = None,
    partial: str | None = None,
    say: Say = quiet,
) -> dict[str, Any]:
    """What is wrong with data files: `findings`, a `profile`, `advice` on their number, and `ok`. Nothing is changed.

    Files whose names say test, dev or validation are held-out data, like those of `test`: what they share with the
    others is a finding. With `labels` also the labels that are likely wrong, in `label_issues`, the likeliest first,
    judged with `encoder`, and answers that their prompts make no likelier for `chat_model`, in `answer_issues`.
    With `shard` ("2/8") only the rows of that shard are looked at, for `data_merge`; the result is the file `partial`.
    """
    if not 0.3 <= near <= 1:
        raise UsageError("--near is a similarity from 0.3 to 1", why=f"it is {near}", fix="--near 0.8")
    sources, problems = _sources([files] if isinstance(files, str) else files, test, format)
    plan = Plan(tuple(sources), tuple(problems), near)
    if (one := partials.asked(shard, partial)) is not None:
        if labels or html is not None:
            raise UsageError("--labels and --html need all rows", where="--shard", fix="data merge FILES --html PAGE")
        return partials.write_check(one, plan, processes or None, say)
    report = report_of(plan, scans(plan, processes or None, say))
    more: dict[str, Any] = {}
    if labels:
        # torch is imported only here: a check without --labels does without it
        judge = need("tutelage.curate.judge", extra="labels")
        judges = judge.Judges(encoder, chat_model)
        more = judge.with_issues(asdict(report), [source.file for source in sources], format, judges, say)
    return checked(report, html, more)


def checked(report: Report, html: str | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a check as a result, with what `more` was found, and its page."""
    result = {**asdict(report), "html": None, **more}
    if html is not None:
        result["html"] = data_page.write(Path(html), result)
    return result


def data_prepare(
    recipe: str,
    *,
    set: Sequence[str] = (),
    out: str | None = None,
    processes: int = 0,
    shard: str | None = None,
    partial: str | None = None,
    say: Say = quiet,
) -> dict[str, Any]:
    """Clean, deduplicate and split the data of a recipe into its prepared folder; every dropped row is listed there.

    Returns counts per split, rows dropped per reason, and the paths of the folder and its report. With `shard` ("2/8")
    only the rows of that shard are cleaned, for `data_merge`; the result is the file `partial`.
    """
    spec, seed, name = read_data(recipe, tuple(set))
    folder = Path(out or spec.prepared or f"prepared/{name}")
    if (one := partials.asked(shard, partial)) is not None:
        return partials.write_prepare(one, spec, seed, folder, processes or None, say)
    manifest = assemble(spec, folder, seed=seed, processes=processes or None, say=say)
    return prepared(folder, manifest, spec, processes or None, say)


def prepared(folder: Path, manifest: dict[str, Any], spec: DataSpec, processes: int | None, say: Say) -> dict[str, Any]:
    """The result of a prepared folder, after its report was written into it."""
    parts = [
        Source(str(folder / file), 0 if part == "train" else 1)
        for part, listed in manifest["parts"].items()
        for file in listed
    ]
    report = asdict(check(parts, threshold=spec.dedupe.near or THRESHOLD, processes=processes, say=say))
    page = data_page.write(folder / layout.REPORT, report)
    names = ("counts", "dropped", "changed", "fingerprint")
    return {
        "prepared": folder,
        **{name: manifest[name] for name in names},
        "report": page,
        "findings": report["findings"],
    }


def _sources(names: Sequence[str], test: Sequence[str], format: str | None) -> tuple[list[Source], list[Problem]]:
    """The files that are named, and what is wrong with those that cannot be read; missing ones are raised together."""
    found: list[Source] = []
    problems: list[Problem] = []
    missing: list[Problem] = []
    for name, held in [*((name, False) for name in names), *((name, True) for name in test)]:
        try:
            several = len(names) > 1 or Path(name).is_dir()
            for file in data_sources.files(name, format):
                part = 1 if held or (several and _sounds_held_out(file)) else 0
                found.append(Source(file, part, format))
        except MissingInputError as error:
            missing += error.problems
        except DataError as error:
            problems += error.problems
    if missing:
        raise MissingInputError(missing)
    if all(source.part for source in found):  # only held-out files were named: they are looked at like any other
        found = [Source(source.file, 0, source.format) for source in found]
    return found, problems


def _sounds_held_out(file: str) -> bool:
    words = Path(file).stem.lower().replace("-", "_").replace(".", "_").split("_")
    return any(word in HELD_OUT for word in words)
