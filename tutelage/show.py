"""What a verb's result looks like to a reader: one function per verb, from JSON values to lines."""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tutelage.columns import block, loss, number, pairs, safe, size, table
from tutelage.report.words import duration
from tutelage.show_scores import show_compare, show_evaluate

Show = Callable[[Any], Iterator[str]]


def show_train(result: dict[str, Any]) -> Iterator[str]:
    """What was trained, what it brought, and what to do next."""
    validation = result.get("validation") or {}
    before, after = (validation.get(key) or {} for key in ("before", "after"))
    trained, total = result["trainable_parameters"], result["total_parameters"]
    yield f"run           {result['run']}"
    steps, epochs = result["steps"], result["epochs"]
    yield f"steps         {steps:,} ({epochs:.2f} epochs, {result['target_tokens']:,} target tokens)"
    yield f"speed         {result['tokens_per_second']:,.0f} tokens/s, peak memory {result['peak_rss_mib']:,.0f} MiB"
    yield f"trained       {trained:,} of {total:,} parameters ({trained / total:.2%})"
    yield f"train loss    {number(result['train_loss'])}"
    if before or after:
        yield f"held-out loss {loss(before.get('loss'), after.get('loss'))}"
    if result.get("forgetting"):
        found = result["forgetting"]
        worse = [name for name, one in found["forgetting"]["probes"].items() if one["verdict"] == "worse"]
        yield f"forgotten     {', '.join(worse) or 'nothing that shows'} ({found['rows']} probes, {found['seconds']:.0f} s)"
    if result.get("resumed_from") is not None:
        yield f"resumed from  step {result['resumed_from']:,}"
    run = result["run"]
    yield f"next          tutelage {f'chat {run}' if result['writes'] else f'evaluate {run} --data FILE'}"


def show_quickstart(result: dict[str, Any]) -> Iterator[str]:
    """What the small model learnt, in its own words, and what to type next."""
    for sample in result["samples"]:
        yield f"question      {sample['prompt']}"
        yield from block("  before      ", sample["before"])
        yield from block("  after       ", sample["after"])
        yield ""
    yield from show_train(result)
    yield f"report        {result['report']}"
    yield f"              tutelage chat {result['run']} --base       (the untouched model)"
    yield "              tutelage preview examples/science_teacher/recipe.yaml   (what was trained, token by token)"
    yield "              then write a recipe for your own file: tutelage train my_recipe.yaml"


def show_preview(result: dict[str, Any]) -> Iterator[str]:
    """Coloured examples (trained tokens green and between ⟦ ⟧), then counts, then the checks."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for example in result["examples"]:
        yield f"{example['title']}: {example['at']}, {example['targets']} of {example['tokens']} tokens are trained"
        yield "".join(painted(text, weight, colour) for text, weight, _ in example["pieces"])
        yield ""
    yield "Trained text stands between ⟦ and ⟧; everything else is only read."
    yield f"rows          {result['rows']:,} ({result['dropped']:,} dropped), the longest has {result['longest']:,} tokens"
    share = result["target_tokens"] / max(1, result["tokens"])
    yield f"tokens        {result['tokens']:,}, trained {result['target_tokens']:,} ({share:.1%})"
    yield "roles         " + ", ".join(f"{role} {count:,}" for role, count in result["roles"].items())
    yield (
        f"over length   {result['over_length']:,} rows ({result['over_length_share']:.1%}) have more than "
        f"{result['max_tokens']:,} tokens; {result['truncated']:,} were cut"
    )
    if result["added_by_template"]:
        yield f"the template adds by itself: {result['added_by_template']!r}"
    for row in result["dropped_rows"]:
        yield f"dropped       {row['file']}:{row['row']}  {row['reason']}  {row['detail']}"
    for check in result["checks"]:
        yield f"{'ok  ' if check['passed'] else 'FAIL'}  {check['name']}: {check['detail']} ({check['count']:,} checked)"
        yield from (f"      {line}" for problem in check["problems"] for line in problem.splitlines())


def painted(text: str, weight: float, colour: bool) -> str:
    """A piece of an example, marked if it is trained; control characters of the data are made harmless."""
    text = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
    if not weight:
        return f"\x1b[2m{text}\x1b[0m" if colour else text
    mark = "" if weight == 1 else f"×{weight:g} "
    return f"\x1b[32m⟦{mark}{text}⟧\x1b[0m" if colour else f"⟦{mark}{text}⟧"


def show_models_list(result: dict[str, Any]) -> Iterator[str]:
    """The catalogue, one model a line."""
    head = list(dict.fromkeys(key for model in result["models"] for key in model))
    rows = [[number(model[key]) if model.get(key) is not None else "-" for key in head] for model in result["models"]]
    yield from table(rows, [key.replace("_", " ") for key in head])


def show_runs(result: dict[str, Any]) -> Iterator[str]:
    """The runs, one a line."""
    if not result["runs"]:
        yield f"no runs in {result['folder']}: start one with `tutelage train RECIPE` or `tutelage quickstart`"
        return
    rows = [
        [
            run["run"], run["status"] or "-", run["model"] or "-", run["method"] or "-",
            number(run["steps"]), loss(run["loss_before"], run["loss_after"]), size(run["bytes"]), run["changed"],
        ]
        for run in result["runs"]
    ]  # fmt: skip
    yield from table(rows, ["run", "status", "model", "method", "steps", "held-out loss", "size", "changed (UTC)"])


def show_doctor(result: dict[str, Any]) -> Iterator[str]:
    """One line per check, and what to do where it is not fine."""
    width = max(len(check["name"]) for check in result["checks"])
    for check in result["checks"]:
        yield f"{check['status']}  {check['name'].ljust(width)}  {check['found']}"
        if check["fix"]:
            yield f"{'':{width + 8}}fix: {check['fix']}"
    counts = [sum(check["status"] == status for check in result["checks"]) for status in ("PASS", "WARN", "FAIL")]
    yield "{} passed, {} warnings, {} failed".format(*counts)


def show_selftest(result: dict[str, Any]) -> Iterator[str]:
    """One line per check, with the largest relative difference and its bound."""
    for subject, notes in result["notes"].items():
        yield from (f"note: {subject}: {note}" for note in notes)
    rows = [
        [c["subject"], c["method"], c["check"], f"{c['difference']:.1e}", f"{c['bound']:g}", c["tensor"]]
        for c in result["checks"]
    ]
    yield from table(rows, ["model", "method", "what must hold", "difference", "at most", "largest in"])
    yield f"all {len(rows)} checks hold ({result['seconds']:.0f} s)"


def show_export(result: dict[str, Any]) -> Iterator[str]:
    """Where the export is, and how it compares with the trained model."""
    parity = result["parity"]
    yield f"export        {result['path']} ({result['kind']}, {result['precision']})"
    for name, count in result["files"].items():
        yield f"              {size(count):>9}  {name}"
    yield from _predicted(parity) if "rows" in parity else _replayed(parity)
    yield f"tokeniser     {parity['same_texts']:,} of {parity['texts']:,} hard texts identical"
    for line in result["commands"].values():
        yield f"serve it      {line}"
    for rule in result["broken_rules"]:
        yield f"but           it breaks a rule: {rule}"


def _replayed(parity: dict[str, Any]) -> Iterator[str]:
    """What the gate saw of a model that goes on with texts."""
    kind = "held-out" if parity["held_out"] else "built-in"
    yield f"replayed      {parity['prompts']} {kind} prompts, by {parity['runner']}"
    ties = f", {parity['ties']} ties not counted" if parity["ties"] else ""
    widest = number(parity["logit_difference"])
    yield f"agreement     {parity['agreement']:.2%} of {parity['tokens']} tokens{ties}; largest logit difference {widest}"
    yield f"stops         {parity['same_stops']} of {parity['stops']} answers end at the same token"
    if parity["loss_change"] is not None:
        yield f"loss          {loss(parity['loss'], parity['export_loss'])} ({parity['loss_change']:+.2%})"


def _predicted(parity: dict[str, Any]) -> Iterator[str]:
    """What it saw of a model with a task of its own, or of an encoder."""
    kind = "held-out" if parity["held_out"] else "training"
    yield f"predicted     {parity['rows']} {kind} rows, by {parity['runner']}; {parity['same']} are the same"
    yield f"scores        largest difference {number(parity['logit_difference'])}"


def show_report(result: dict[str, Any]) -> Iterator[str]:
    """Where the report is."""
    yield result["report"]


def show_data_check(result: dict[str, Any]) -> Iterator[str]:
    """What the files are, what was found, worst first, with places and what to do."""
    if "partial" in result:
        yield from pairs(result)
        return
    for file in result["profile"]["files"]:
        formats = ", ".join(f"{name} ({count:,})" for name, count in file["formats"].items())
        yield f"{file['file']}: {file['rows']:,} row{'' if file['rows'] == 1 else 's'}, {formats}"
    lengths, labels = result["profile"]["characters"], result["profile"]["labels"]
    for name in ("prompt", "answer"):
        if lengths[name]:
            yield f"{name:8}  " + ", ".join(f"{key} {value:,}" for key, value in lengths[name].items()) + " characters"
    if labels:
        first = ", ".join(f"{label} {count:,}" for label, count in list(labels.items())[:8])
        yield f"labels    {len(labels):,}: {first}{', …' if len(labels) > 8 else ''}"
    yield f"advice    {result['advice']['different_rows']:,} different rows; {result['advice']['rule']}"
    yield from result["notes"]
    for severity in ("error", "warning", "info"):
        for finding in (each for each in result["findings"] if each["severity"] == severity):
            yield ""
            yield f"{severity}: {finding['count']:,} × {finding['title']} ({finding['kind']})"
            for example in finding["examples"][:3]:
                yield "  " + safe(_example_line(example))
            if finding["count"] > 3:
                yield f"  … and {finding['count'] - 3:,} more"
            yield f"  fix: {finding['fix']}"
    if not result["findings"]:
        yield "nothing was found"
    if result["html"]:
        yield f"report    {result['html']}"


def show_data_prepare(result: dict[str, Any]) -> Iterator[str]:
    """Rows per split, what was dropped and changed, and where it is listed."""
    if "partial" in result:
        yield from pairs(result)
        return
    yield "rows      " + ", ".join(f"{name} {count:,}" for name, count in result["counts"].items())
    for reason, count in result["dropped"].items():
        yield f"dropped   {count:,} × {reason}"
    yield f"changed   {result['changed']:,} rows"
    yield f"data      {result['prepared']}, fingerprint {result['fingerprint'][:16]}"
    yield f"listed in {result['prepared']}/dropped.jsonl and changed.jsonl; the rest in {result['report']}"


def show_data_merge(result: dict[str, Any]) -> Iterator[str]:
    """What was merged, as the verb shows it that does the same without shards."""
    yield from (show_data_prepare if "prepared" in result else show_data_check)(result)


def _example_line(example: dict[str, Any]) -> str:
    parts = [f"{example['file']}:{example['row']}"]
    if "of" in example:
        alike = f" ({example['similarity']:.2f})" if "similarity" in example else ""
        parts.append(f"like {example['of']['file']}:{example['of']['row']}{alike}")
    return "  ".join([*parts, *(example[key] for key in ("detail", "text") if key in example)])


def show_nothing(result: Any) -> Iterator[str]:
    """No lines: the verb has already written what there is to read."""
    return iter(())


def show_estimate(result: dict[str, Any]) -> Iterator[str]:
    """Memory by part, time, disk, and whether it fits."""
    memory, machine, plan = result["memory"], result["machine"], result["plan"]
    assumed = " (assumed: the data are not here)" if result["rows"]["assumed"] else ""
    yield (
        f"{result['model']}, {result['method']}: {result['parameters']['trained']:,} of {result['parameters']['total']:,} "
        f"parameters train; rows of at most {result['rows']['longest']:,} tokens{assumed}, {result['rows']['per_step']} a step"
    )
    yield (
        f"machine      {machine['name']}: {machine['free_mib']:,.0f} MiB for a run, "
        f"{machine['gflops']:,.0f} GFLOP/s in {plan['precision']} ({machine['source']})"
    )
    yield f"plan         micro-batches of at most {plan['tokens']:,} tokens, layers keep {plan['keep']}"
    yield from (f"{name:<12} {value:>9,.1f} MiB" for name, value in memory["parts_mib"].items() if value)
    yield f"peak         {memory['peak_mib']:>9,.1f} MiB of memory of its own"
    if memory["mapped_mib"]:
        yield f"and          {memory['mapped_mib']:>9,.1f} MiB of weights that stay in their file (page cache)"
    low, high = result["seconds"]["low"], result["seconds"]["high"]
    yield f"time         {duration(low)} to {duration(high)} for {result['steps']:,} steps, {result['tokens']:,} tokens"
    if result["probe"]:
        probe = result["probe"]
        yield (
            f"probed       {duration(probe['run_seconds'])} for the steps and {duration(probe['validation_seconds'])} for held-out "
            f"rows: {probe['seconds']:.2f} s for {probe['tokens']:,} tokens; peak {probe['peak_mib']:,.0f} MiB"
        )
    yield "disk         " + ", ".join(f"{name} {value:,.0f} MiB" for name, value in result["disk_mib"].items() if value)
    yield from (f"note: {note}" for note in result["notes"])
    yield "it fits" if result["ok"] else "it does NOT fit" + ("; this would:" if result["proposals"] else "")
    for proposal in result["proposals"]:
        yield f"  {' '.join(f'--set {each}' for each in proposal['set'])}   about {proposal['least_mib']:,.0f} MiB"


SHOW: dict[str, Show] = {
    "chat": show_nothing,
    "compare": show_compare,
    "data_check": show_data_check,
    "data_merge": show_data_merge,
    "data_prepare": show_data_prepare,
    "data_review": pairs,
    "doctor": show_doctor,
    "estimate": show_estimate,
    "evaluate": show_evaluate,
    "export": show_export,
    "models_describe": pairs,
    "models_get": pairs,
    "models_list": show_models_list,
    "preview": show_preview,
    "push": pairs,
    "quickstart": show_quickstart,
    "report": show_report,
    "runs": show_runs,
    "selftest": show_selftest,
    "serve": pairs,
    "train": show_train,
}
