"""results/*.json as RESULTS.md."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WANTED_QUALITY, WANTED_SPEED, WANTED_MEMORY = 0.97, 2.5, 0.60


def write_table(results: Path, target: Path) -> None:
    """Write `target` from whatever results there are; what was not measured is said."""
    lines = [
        "# Results",
        "",
        "Written by `python bench/quality/run.py table` from `bench/results/*.json`. How: `bench/README.md`.",
        "",
    ]
    for name, section in (("quality.json", quality_section), ("speed.json", speed_section)):
        path = results / name
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        lines += section(known) if known else [f"## {name.removesuffix('.json').title()}", "", "Not measured yet.", ""]
    target.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def machine_lines(result: dict[str, Any]) -> Iterator[str]:
    """Machine, date and versions."""
    m, v = result["machine"], result["versions"]
    yield f"- Machine: {m['cpu']}, {m['capability']}, {m['memory_bytes'] / 2**30:.0f} GiB, {m['platform']}; {result['at']}"
    for side in ("ours", "theirs"):
        yield f"- {side.title()}: " + ", ".join(f"{name} {number}" for name, number in v[side].items())


def verdict(value: float, wanted: float, at_least: bool) -> str:
    """Whether a wanted figure was reached."""
    reached = value >= wanted if at_least else value <= wanted
    return "reached" if reached else "NOT reached"


def quality_section(q: dict[str, Any]) -> Iterator[str]:
    """Gains per seed and their ratio."""
    yield from ("## Quality", "")
    yield f"Held-out gain over the untouched model ({q['base_loss']:.4f}) in nats per target token; {q['held_out_rows']} rows, "
    yield f"{q['held_out_targets']:,.0f} targets; one fp32 scorer for both, which peft with transformers alone confirms to "
    yield f"{q['scorers_differ_by']:.1e}."
    yield from ("", "| seed | tutelage | TRL | ratio |", "|---|---|---|---|")
    for row in q["gains"]:
        yield f"| {row['seed']} | {row['tutelage']:.4f} | {row['trl']:.4f} | {row['tutelage'] / row['trl']:.1%} |"
    mean = q["mean_gain"]
    yield f"| mean | {mean['tutelage']:.4f} | {mean['trl']:.4f} | **{q['ratio']:.1%}** |"
    t = q["tokens"]
    yield ""
    yield f"Wanted: at least {WANTED_QUALITY:.0%} of TRL's gain: {verdict(q['ratio'], WANTED_QUALITY, True)}. 95 % interval of the "
    yield f"ratio over held-out rows: {q['ratio_low']:.1%} to {q['ratio_high']:.1%}."
    yield ""
    yield f"- Same tokens: ids equal in {t['same_ids']} of {t['rows']} training rows; targets equal in {t['same_targets']} up to "
    yield f"  the line break behind `<|im_end|>`, which TRL also trains ({t['trl_also_trains_newline']} rows) and nobody scores."
    yield "- Both run in fp32. TRL with 1 row per forward pass and 8 accumulated: the loss is divided by the targets of all 8 rows."
    yield "- Warm-up: both over 2 of 50 steps; TRL's first step has learning rate 0, ours half the peak, so ours takes about one"
    yield "  full-rate step more. Row orders and LoRA's first weights differ. So more than 100 % does not mean better."
    yield "- The interval is over held-out rows only, with these adapters; the spread over seeds is in the table."
    yield "- The runs shared their machine and some ran on one thread, so their times are no speed figures."
    yield from machine_lines(q)
    yield "- Command: `python bench/quality/run.py quality --trl-python DIR/bin/python`"
    yield ""


def speed_section(s: dict[str, Any]) -> Iterator[str]:
    """Rates and peaks, and the ratios to TRL's best."""
    ours = s["contenders"].get("tutelage")
    peers = {name: c for name, c in s["contenders"].items() if name != "tutelage"}
    yield from ("## Speed and memory", "")
    yield f"Useful tokens per second (no padding), {s['steps']} steps of 8 rows, the first {s['warm_up_steps']} not counted, "
    yield f"loading not counted, {s['threads']} threads; peak anonymous resident memory of the process tree at 20 Hz. "
    yield "Median (lowest–highest)."
    yield from (
        "",
        "| | runs x steps | tokens/s | ours is faster by | peak MiB | ours needs |",
        "|---|---|---|---|---|---|",
    )
    for name, c in s["contenders"].items():
        rate, peak = c["tokens_per_second"], c["peak_mib"]
        faster = needs = ""
        if ours and name != "tutelage":
            faster = f"{ours['tokens_per_second']['median'] / rate['median']:.2f} x"
            needs = f"{ours['peak_mib']['median'] / peak['median']:.0%}"
        yield (
            f"| {name} | {c['runs']} x {c['steps']} | {rate['median']:.1f} ({rate['low']:.1f}–{rate['high']:.1f}) | {faster} "
            f"| {peak['median']:.0f} ({peak['low']:.0f}–{peak['high']:.0f}) | {needs} |"
        )
    yield ""
    if ours and peers:
        best = max(peers, key=lambda name: peers[name]["tokens_per_second"]["median"])
        faster = ours["tokens_per_second"]["median"] / peers[best]["tokens_per_second"]["median"]
        needs = ours["peak_mib"]["median"] / peers[best]["peak_mib"]["median"]
        yield f"Against TRL's fastest ({best}): {faster:.2f} times its speed (wanted {WANTED_SPEED}: "
        yield f"{verdict(faster, WANTED_SPEED, True)}) at {needs:.0%} of its peak memory (wanted {WANTED_MEMORY:.0%} at most: "
        yield f"{verdict(needs, WANTED_MEMORY, False)})."
        yield ""
    yield "- `trl-fp32`: 8 rows padded in one forward pass. `-AxB`: A accumulated passes of B rows, same results. `bf16`: autocast."
    yield "- Gradient checkpointing (TRL's default, slower) is off unless the name says so."
    yield from (f"- {note}" for note in s.get("notes", ()))
    yield from machine_lines(s)
    yield f"- Command: `python bench/quality/run.py speed --steps {s['steps']} --repeat {s['repeat']} --trl-python DIR/bin/python`"
    yield ""
