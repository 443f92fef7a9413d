"""`python bench/examples/run.py [sentiment ...] [--write]`: every shipped recipe as a user runs it, for docs/examples.md.

Each is trained and evaluated on its test rows by the commands themselves, in processes of their own. Peak memory is the
high-water mark of anonymous resident memory of both, sampled; the time is that of the whole commands.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from bench.harness.memory import Measured, run_measured  # noqa: E402

EXAMPLES = ("sentiment", "entities", "questions", "summaries", "translation", "support_bot")
SHOWN = {"support_bot": ("token_f1", "loss"), "summaries": ("rouge_l", "chrf"), "translation": ("chrf", "bleu"),
         "questions": ("token_f1", "exact_match")}  # fmt: skip


def measured(arguments: list[str], log: Path) -> Measured:
    """A command of this checkout, run to its end in the repository's root."""
    os.chdir(ROOT)
    found = run_measured([sys.executable, "-m", "tutelage", *arguments], log, {**os.environ, "PYTHONPATH": str(ROOT)})
    if found.returncode:
        sys.exit(f"tutelage {' '.join(arguments)} ended with {found.returncode}:\n{log.read_text()[-2000:]}")
    return found


def run(name: str, out: Path, settings: list[str]) -> dict[str, Any]:
    """Train and evaluate one example; its scores, seconds and peak."""
    folder, recipe = out / name, f"examples/{name}/recipe.yaml"
    changed = [word for setting in settings for word in ("--set", setting)]
    train = measured(["train", recipe, "--out", str(folder), *changed], out / f"{name}-train.log")
    test = measured(["evaluate", str(folder), "--data", f"examples/{name}/test.jsonl"], out / f"{name}-test.log")
    found = json.loads((folder / "evaluation" / "test" / "evaluation.json").read_text())
    return {"name": name, "train": train, "test": test, "found": found}


def rows(one: dict[str, Any]) -> Iterator[str]:
    """One row of the table for each metric that is shown."""
    found = one["found"]
    for metric in SHOWN.get(one["name"], (found["main_metric"],)):
        said = found["comparison"]["differences"][metric]
        cells = [
            f"`{one['name']}`", metric.replace("_", " "), interval(found["untouched"]["metrics"][metric]),
            interval(found["metrics"][metric]), f"{said['verdict']}, n = {said['n']}", baseline(found, metric),
            f"{one['train'].seconds:.0f} s + {one['test'].seconds:.0f} s",
            f"{one['train'].peak_mib:,.0f} / {one['test'].peak_mib:,.0f} MiB",
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def interval(one: dict[str, Any]) -> str:
    return f"{one['value']:.3g} [{one['low']:.3g}, {one['high']:.3g}]"


def baseline(found: dict[str, Any], metric: str) -> str:
    """The best trivial system, by name."""
    known = [(one["metrics"][metric]["value"], one["system"]) for one in found["baselines"] if metric in one["metrics"]]
    return "{0[0]:.3g} ({0[1]})".format(max(known)) if known else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", nargs="*", default=EXAMPLES)
    parser.add_argument("--out", type=Path, default=Path("/tmp/tutelage-examples"))
    parser.add_argument("--set", action="append", default=[], help="threads=1 where other work runs beside")
    parser.add_argument("--write", action="store_true", help="put the rows into the table of docs/examples.md")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.examples:
        lines = list(rows(run(name, given.out, given.set)))
        print(*lines, sep="\n", flush=True)
        if given.write:
            write(name, lines)


def write(name: str, lines: list[str]) -> None:
    """Replace the example's rows in the table of docs/examples.md."""
    page = ROOT / "docs" / "examples.md"
    before = page.read_text(encoding="utf-8").splitlines()
    kept = [line for line in before if not line.startswith(f"| `{name}` |")]
    places = [i for i, line in enumerate(before) if line.startswith(f"| `{name}` |")]
    at = places[0] if places else max(i for i, line in enumerate(before) if line.startswith("| `")) + 1
    kept[at:at] = lines
    page.write_text("\n".join(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
