"""Results of bench/tasks as a section of RESULTS.md."""

from statistics import mean
from typing import Any

from harness.results import load

PEERED = {"banking77": "accuracy", "wnut17": "entity F1", "xquad": "token F1"}
INTRODUCTION = (
    "MiniLM, full fine-tuning, beside transformers' Trainer in bf16 autocast: the same rows, epochs, batch and rate. "
    "Rows/s are those of each side's fastest seed."
)
HEAD = "| set | metric | ours | Trainer | ours - Trainer [95 %] | rows/s | faster by | peak MiB | of theirs |"
CAUSAL = {"snips": "accuracy, labels written by the model", "scitldr": "ROUGE-L", "ntrex": "chrF"}


def tasks_section() -> list[str]:
    """Both tables; what was not measured is said."""
    lines = ["## Tasks", "", INTRODUCTION, "", HEAD, "|" + "---|" * 9]
    for name, metric in PEERED.items():
        found = load(f"tasks_{name}.json")
        lines.append(_peered(name, metric, found) if found else f"| {name} | {metric} | not measured |" + " |" * 6)
    lines += [
        _peered(f"{name}, both with dropout 0.1", metric, found)
        for name, metric in PEERED.items()
        if (found := load(f"tasks_{name}_dropout.json"))
    ]
    lines += _limit(load("tasks_limit.json") or {})
    lines += ["", "SmolLM2-135M, LoRA rank 16, before and after, on the same test rows.", ""]
    lines += [
        "| set | metric | untouched | tuned | difference [95 %] | rows | probes before → after |",
        "|" + "---|" * 7,
    ]
    for name, metric in CAUSAL.items():
        found = load(f"tasks_{name}.json")
        lines.append(_causal(name, metric, found) if found else f"| {name} | {metric} | not measured |" + " |" * 4)
    return [*lines, "", "- Commands: `python bench/tasks/run.py SET`, `python bench/tasks/causal.py SET`.", ""]


def _peered(name: str, metric: str, found: dict[str, Any]) -> str:
    scores = {side: mean(run["score"] for run in runs) for side, runs in found["runs"].items()}
    gap, rate, peak = found["difference"], found["rows_per_second"], found["peak_mib"]
    seeds = len(found["runs"]["tutelage"])
    return (
        f"| {name} | {metric}, {seeds} seed{'s' if seeds > 1 else ''} | {scores['tutelage']:.2f} | {scores['trainer']:.2f} "
        f"| {gap['value']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}] | {rate['tutelage']:.3g} and {rate['trainer']:.3g} "
        f"| {found['speed']:.2f} x | {peak['tutelage']:,.0f} and {peak['trainer']:,.0f} | {found['memory']:.0%} |"
    )


def _limit(found: dict[str, Any]) -> list[str]:
    """What of a step no code around torch's kernels can save, beside what four times the Trainer's rows/s would allow."""
    if not found:
        return []
    return [
        "",
        "Where a step's time goes, in ms: what four times the Trainer would leave for all of it, and what its matrix products and "
        "AdamW take by themselves, with nothing between (`python bench/tasks/limit.py banking77 wnut17`).",
        "",
        "| set | 4 x the Trainer | a step | its products alone | AdamW alone | rows/s of these two alone |",
        "|" + "---|" * 6,
        *(_limited(name, one) for name, one in found.items()),
    ]


def _limited(name: str, one: dict[str, float]) -> str:
    alone = one["products"] + one["adamw"]
    cells = (f"{1000 * one[key]:.1f}" for key in ("wanted", "step", "products", "adamw"))
    return f"| {name} | {' | '.join(cells)} | {one['batch'] / alone:.0f} |"


def _causal(name: str, metric: str, found: dict[str, Any]) -> str:
    gap = found["difference"]
    return (
        f"| {name} | {metric} | {found['before']:.2f} | {found['after']:.2f} "
        f"| {gap['value']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}] | {found['rows']:,} | {_probes(found.get('forgotten'))} |"
    )


def _probes(found: dict[str, Any] | None) -> str:
    if not found:
        return "not kept"
    return ", ".join(
        f"{name.replace('_', ' ')} {one['first']:.3g} → {one['second']:.3g} ({one['verdict']})"
        for name, one in found.items()
    )
