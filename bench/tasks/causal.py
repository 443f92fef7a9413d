"""`python bench/tasks/causal.py snips`: SmolLM2 with LoRA on labels it writes, summaries, translations: before and after.

Prints and writes the score of the untouched and of the tuned model on the same test rows, with a paired interval.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from bench.tasks.run import ours  # noqa: E402
from bench.tasks.score import RESAMPLES  # noqa: E402
from bench.tasks.sets import DATA, SETS  # noqa: E402
from tutelage.data.prepare import prepare  # noqa: E402
from tutelage.metrics.types import Prediction  # noqa: E402
from tutelage.recipe import DataSpec  # noqa: E402
from tutelage.runs import FORGETTING, read_json  # noqa: E402
from tutelage.tasks import TASKS  # noqa: E402
from tutelage.tasks.opening import open_for_task  # noqa: E402
from tutelage.taskspec import TASKS as SPECS  # noqa: E402


def longest_common(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(p: Prediction) -> float:
    """The best ROUGE-L F1 over the references, in percent (lower-cased words; no stemming)."""

    def one(reference: str) -> float:
        a, b = ("".join(c if c.isalnum() else " " for c in t.lower()).split() for t in (p.text, reference))
        hit = longest_common(a, b)
        return 200 * hit / (len(a) + len(b)) if hit else 0.0

    return max(one(reference) for reference in p.texts)


def chrf(p: Prediction) -> float:
    """Sentence chrF2 by sacrebleu."""
    import sacrebleu

    return float(sacrebleu.sentence_chrf(p.text, list(p.texts)).score)


def forgotten(run: Path) -> dict[str, Any]:
    """The run's probes before and after training, and their verdicts."""
    path = run / FORGETTING
    found = read_json(path)["forgetting"] if path.is_file() else {"probes": {}}
    return {name: {key: one[key] for key in ("first", "second", "verdict")} for name, one in found["probes"].items()}


SCORES: dict[str, Any] = {
    "snips": lambda p: 100.0 * (p.output == p.reference), "scitldr": rouge_l, "ntrex": chrf,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=sorted(SCORES))
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--work", default="/tmp/bench_tasks")
    parser.add_argument("--rows", type=int, help="at most this many rows: for trying the script out")
    parser.add_argument("--steps", type=int, help="stop after this many steps: for trying the script out")
    given = parser.parse_args()
    work = Path(given.work) / given.set
    one = SETS[given.set](Path(given.data), work, given.rows)
    made = ours(one, 0, work / "ours", given.steps)
    spec: Any = SPECS[one.task["kind"]].model_validate(one.task)
    accepts = TASKS.get(spec.kind).accepts(spec)
    rows = prepare(DataSpec(train=[str(one.test)]), seed=0, accepts=lambda source: accepts).train
    each = {}
    for side, base in (("before", True), ("after", False)):
        opened = open_for_task(made["model"], base=base)
        each[side] = np.array([SCORES[given.set](p) for p in opened.predict(rows)])
        print(side, round(float(each[side].mean()), 2), flush=True)
    gap = each["after"] - each["before"]
    draw = np.random.default_rng(0)
    means = sorted(float(gap[draw.integers(0, len(gap), len(gap))].mean()) for _ in range(RESAMPLES))
    result = {"before": float(each["before"].mean()), "after": float(each["after"].mean()), "rows": len(gap),
              "difference": {"value": float(gap.mean()), "low": means[int(0.025 * RESAMPLES)],
                             "high": means[int(0.975 * RESAMPLES)]},
              "forgotten": forgotten(Path(made["model"])),
              **{k: made[k] for k in ("rows_per_second", "peak_mib", "seconds")}}  # fmt: skip
    if not given.rows and not given.steps:
        (HERE.parent / "results" / f"tasks_{given.set}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
