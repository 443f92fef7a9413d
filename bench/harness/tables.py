"""Sections of RESULTS.md, each from one result file."""

from collections.abc import Iterator
from typing import Any

from harness.contenders import CONTENDERS
from harness.results import spread

Result = dict[str, Any]
# What issues 3 and 5 want: times TRL's best, times the fastest peer, share of the limit, share of TRL's memory.
WANTED = {"lora": (6.5, 5.5, 0.60, 0.25), "full": (5.0, None, None, 0.50), "qlora": (3.0, None, None, None)}
TITLES = {
    "lora": "LoRA",
    "full": "full fine-tuning",
    "qlora": "QLoRA",
    "qlora-calibrated": "QLoRA on a calibrated base",
    "qlora-int4": "QLoRA on a base in 4-bit integers",
}
WANTED_QUALITY = {"lora": 0.97, "full": 0.97, "qlora": 0.90, "qlora-calibrated": 0.90, "qlora-int4": 0.90}
OURS = {name for name, contender in CONTENDERS.items() if contender.tool in ("tutelage", "limit")}
TOOL_NAMES = {"tutelage": "tutelage", "trl": "TRL", "litgpt": "LitGPT", "llamafactory": "LLaMA-Factory"}
CHECK_NAMES = {
    "accumulation": "8 rows at once = 8 accumulated (gradient)", "packing": "packed = apart (gradient)",
    "trained": "trained by default", "end_of_turn": "end of turn trained", "over_long": "rows over the limit",
    "resume": "killed and continued = not interrupted (weights)",
}  # fmt: skip


def verdict(value: float, wanted: float, at_least: bool = True) -> str:
    """Whether a wanted figure was reached."""
    return "reached" if (value >= wanted if at_least else value <= wanted) else "NOT reached"


def by_name(runs: list[Result], data: str) -> dict[str, list[Result]]:
    """The runs of each contender on one set of rows, in the order of CONTENDERS."""
    found = {name: [r for r in runs if r["name"] == name and r["data"] == data] for name in CONTENDERS}
    return {name: listed for name, listed in found.items() if listed}


def summary(runs: list[Result]) -> dict[str, dict[str, float]]:
    """Median and spread of what the runs of one contender measured; empty where all failed."""
    keys = ("tokens_per_second", "peak_mib", "first_step_seconds")
    good = [run for run in runs if "failed" not in run]
    return {key: spread(run[key] for run in good) for key in keys if good and all(key in run for run in good)}


def shown(figure: dict[str, float] | None, digits: int = 0) -> str:
    """Median (lowest–highest)."""
    if not figure:
        return ""
    median, low, high = (f"{figure[key]:,.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low}–{high})"


def speed_section(result: Result) -> Iterator[str]:
    """Rates, peaks and first steps, and what they come to beside what was wanted."""
    method = result["comparison"]
    yield f"## Speed and memory: {TITLES[method]}"
    for data in dict.fromkeys(run["data"] for run in result["runs"]):
        named = by_name(result["runs"], data)
        some = next(iter(named.values()))[0]
        yield ""
        yield f"### {data.title()} rows"
        yield ""
        yield f"Useful tokens per second (no padding) over {some.get('steps', 8)} steps of 8 rows without the first "
        yield f"{result['warm_up_steps']}, {some['threads']} threads; peak anonymous memory of the process tree; seconds from the "
        yield "start of the process to the end of the first step. Median (lowest–highest)."
        yield ""
        yield "| | what | runs | tokens/s | ours is faster by | of the limit | peak MiB | ours needs | first step s |"
        yield "|---|---|---|---|---|---|---|---|---|"
        yield from (speed_row(name, runs, named) for name, runs in named.items())
        yield ""
        yield from verdicts(method, {name: summary(runs) for name, runs in named.items()})
    yield from circumstances(result["runs"])
    yield f"- Command: `python bench/speed/run.py {method}`"
    yield ""


def speed_row(name: str, runs: list[Result], named: dict[str, list[Result]]) -> str:
    """One contender's row."""
    figures, what = summary(runs), CONTENDERS[name].note
    if not figures:
        return f"| {name} | {what} | {len(runs)} | {runs[-1]['failed'][:120]} | | | | | |"
    ours, limit = summary(named.get("tutelage", [])), summary(named.get("limit", []))
    rate, peak = figures["tokens_per_second"]["median"], figures["peak_mib"]["median"]
    faster = f"{ours['tokens_per_second']['median'] / rate:.2f} x" if ours and name not in OURS else ""
    needs = f"{ours['peak_mib']['median'] / peak:.0%}" if faster else ""
    share = f"{rate / limit['tokens_per_second']['median']:.0%}" if limit and name != "limit" else ""
    memory = shown(figures["peak_mib"]) if name != "limit" else ""
    first = shown(figures.get("first_step_seconds"), 1)
    cells = (name, what, len(runs), shown(figures["tokens_per_second"]), faster, share, memory, needs, first)
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def verdicts(method: str, figures: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    """What was wanted, and whether it was reached."""
    ours, limit = figures.get("tutelage"), figures.get("limit")
    peers = {n: f for n, f in figures.items() if f and n not in OURS}
    if not ours or not peers:
        return
    times_trl, times_best, share, memory = WANTED[method]

    def rate(name: str) -> float:
        return figures[name]["tokens_per_second"]["median"]

    trl = [name for name in peers if name.startswith("trl-")]
    for who, names, wanted in (("TRL's fastest", trl, times_trl), ("the fastest peer", list(peers), times_best)):
        if not names:
            continue
        best = max(names, key=rate)
        times = rate("tutelage") / rate(best)
        judged = f" (wanted {wanted}: {verdict(times, wanted)})" if wanted else ""
        needs = ours["peak_mib"]["median"] / figures[best]["peak_mib"]["median"]
        yield f"- {times:.2f} times {who} (`{best}`){judged}, in {needs:.0%} of its memory."
    padded = max((name for name in trl if not name.endswith("8x1")), key=rate, default=None)
    if padded:
        needs = ours["peak_mib"]["median"] / figures[padded]["peak_mib"]["median"]
        judged = f"; wanted at most {memory:.0%}: {verdict(needs, memory, False)}" if memory else ""
        yield f"- {needs:.0%} of the memory of TRL's fastest with a batch of 8 (`{padded}`{judged}), "
        yield f"  at {rate('tutelage') / rate(padded):.2f} times its speed."
    if limit:
        reached = rate("tutelage") / limit["tokens_per_second"]["median"]
        yield f"- {reached:.0%} of the limit" + (f" (wanted {share:.0%}: {verdict(reached, share)})." if share else ".")


def circumstances(runs: list[Result]) -> Iterator[str]:
    """Machine, dates, load and versions of the runs."""
    m = runs[-1]["machine"]
    yield f"- Machine: {m['cpu']}, {m['capability']}, {m['cores']} cores, {m['memory_bytes'] / 2**30:.0f} GiB, {m['platform']}"
    times, loads = sorted(run["at"] for run in runs), [run["load"] for run in runs]
    yield f"- Measured {times[0]} to {times[-1]}; load before each run {min(loads)} to {max(loads)}."
    seen: dict[str, str] = {}
    for run in runs:
        if "versions" in run and run["name"] != "limit":
            tool = CONTENDERS[run["name"]].tool
            commit = f", commit {run['commit']}" if tool == "tutelage" else ""
            seen[tool] = ", ".join(f"{name} {number}" for name, number in run["versions"].items()) + commit
    yield from (f"- {TOOL_NAMES[tool]}: {said}" for tool, said in seen.items())


def first_section(result: Result) -> Iterator[str]:
    """Time to the first optimiser step on 1,000 rows."""
    yield from ("## Time to the first step", "")
    yield "Seconds from the start of the process to the end of the first optimiser step: 1,000 Dolly and Alpaca rows, LoRA, 8 rows"
    yield "a step. Every run finds the disk and the tool's own caches as the run before left them. Median (lowest–highest)."
    yield from ("", "| | runs | first step s |", "|---|---|---|")
    for name, runs in by_name(result["runs"], "both").items():
        figures = summary(runs)
        said = shown(figures["first_step_seconds"], 1) if figures else runs[-1]["failed"][:120]
        yield f"| {name} | {len(runs)} | {said} |"
    yield ""
    yield from circumstances(result["runs"])
    yield from ("- Command: `python bench/speed/run.py first`", "")


def length_section(result: Result) -> Iterator[str]:
    """Speed and memory by the length of examples."""
    yield from ("## Cost by length", "")
    yield "LoRA rank 16, the same text cut into examples of one length, 8,192 tokens a pass; tokens per second and peak anonymous"
    yield "memory, median (lowest–highest). `SDPA allows`: the time of 256-token examples with torch's own attention, forward and"
    yield "backward at its measured rate, in place of that length's."
    yield from ("", "| tokens | tokens/s | of 256's | SDPA allows | of that | peak MiB |", "|---|---|---|---|---|---|")
    for length, row in result["lengths"].items():
        yield (
            f"| {int(length):,} | {shown(row['tokens_per_second'])} | {row['of_256']:.0%} | {row['sdpa_allows']:.0f} "
            f"| {row['of_what_sdpa_allows']:.0%} | {shown(row['peak_mib'])} |"
        )
    yield ""
    yield from circumstances([result])
    yield from ("- Command: `python bench/speed/length.py`", "")


def quality_section(result: Result) -> Iterator[str]:
    """Gains per seed and their ratio."""
    q, method = result, result.get("method", "lora")
    yield from (f"## Quality: {TITLES[method]}", "")
    yield f"Held-out gain over the untouched model ({q['base_loss']:.4f}) in nats per target token; {q['held_out_rows']} rows, "
    yield f"{q['held_out_targets']:,.0f} targets; one fp32 scorer for both, which peft and transformers alone confirm to "
    yield f"{q['scorers_differ_by']:.1e}."
    peers = [tool for tool in q["mean_gain"] if tool != "tutelage"]
    head = " | ".join(f"{peer} | ratio" for peer in peers)
    yield from ("", f"| seed | tutelage | {head} |", "|---|---|" + "---|---|" * len(peers))
    for row in (*q["gains"], {"seed": "mean", **q["mean_gain"]}):
        cells = " | ".join(f"{row[peer]:.4f} | {row['tutelage'] / row[peer]:.1%}" for peer in peers)
        yield f"| {row['seed']} | {row['tutelage']:.4f} | {cells} |"
    yield ""
    for peer, ratio in q["ratios"].items():
        wanted = WANTED_QUALITY[method]
        judged = f"wanted at least {wanted:.0%}: {verdict(ratio['ratio'], wanted)}"
        low, high = ratio["low"], ratio["high"]
        yield f"- {ratio['ratio']:.1%} of {peer}'s gain ({judged}); 95 % interval over held-out rows {low:.1%} to {high:.1%}."
    if t := q.get("tokens"):
        yield from peer_notes(t)
    m, v = q["machine"], q["versions"]
    yield f"- Ours in {q['plan']['precision']}. Machine: {m['cpu']}, {m['capability']}, {m['platform']}; {q['at']}"
    yield from (
        f"- {side if side != 'ours' else 'Ours'}: " + ", ".join(f"{n} {number}" for n, number in v[side].items())
        for side in v
    )
    yield from (f"- Command: `python bench/quality/run.py {method}`", "")


def peer_notes(t: dict[str, int]) -> Iterator[str]:
    """What differs from TRL."""
    yield f"- Same tokens: ids equal in {t['same_ids']} of {t['rows']} training rows; targets equal in {t['same_targets']} up to "
    yield f"  the line break behind `<|im_end|>`, which TRL also trains ({t['trl_also_trains_newline']} rows) and nobody scores."
    yield "- TRL with 1 row per pass and 8 accumulated: the loss is divided by the targets of all 8 rows."
    yield "- Warm-up: both over 2 of 50 steps; TRL's first step has learning rate 0, ours half the peak, so ours takes about one"
    yield "  full-rate step more. Row orders and LoRA's first weights differ. So more than 100 % does not mean better."


def correctness_section(result: Result) -> Iterator[str]:
    """The table of checks, as found."""
    tools = [tool for tool in TOOL_NAMES if tool in result["tools"]]
    yield from ("## Correctness, as found", "")
    yield "Each tool as installed, through its documented entry point with its defaults, on a tiny Llama in fp32. Nothing but what"
    yield "reached the model and the optimiser was looked at."
    names = " | ".join(f"{TOOL_NAMES[t]} {result['tools'][t]['version']}" for t in tools)
    yield from ("", f"| check | {names} |", "|---|" + "---|" * len(tools))
    for check, name in CHECK_NAMES.items():
        cells = [result["tools"][tool]["checks"].get(check, {}).get("said", "not run") for tool in tools]
        yield f"| {name} | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
    yield "- Gradients are fp32 and compared as ‖a − b‖ / ‖a‖; below 1e-4 they are called equal."
    yield "- LitGPT: full fine-tuning for the gradients; prompts in its JSON data's default style (`alpaca`)."
    yield "- Interrupted: the process ends at once before update 6 of 6, with a checkpoint of step 4, and is continued."
    yield "- Over the limit: of 8 rows one answer runs over it and one question alone is longer than it (256 tokens)."
    dates = sorted(cell["at"] for tool in tools for cell in result["tools"][tool]["checks"].values())
    yield f"- Checked {dates[0]} to {dates[-1]}. Command: `python bench/correctness/run.py`"
    yield ""
