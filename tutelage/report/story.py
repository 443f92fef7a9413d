"""What happened in a run, in words and numbers: headline, key figures, held-out scores, incidents."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tutelage.report.facts import Facts, listed
from tutelage.report.measures import measures
from tutelage.report.words import (
    DASH,
    clock,
    count,
    duration,
    memory,
    number,
    percent,
    ratio,
    score,
    short,
    things,
)

METHODS = {"lora": "LoRA", "full": "full fine-tuning", "qlora": "QLoRA", "half": "half fine-tuning"}
STATUS = {"finished": "Finished", "interrupted": "Interrupted", "failed": "Failed"}
REASONS = {"done": "", "early_stopping": "It stopped early because the held-out loss no longer fell."}


@dataclass(frozen=True, slots=True)
class Fact:
    """A number with its name, for the strip below the headline and the tables of names and values."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """One row of the score table."""

    label: str
    before: str
    after: str
    change: str
    verdict: str


def validation(facts: Facts) -> tuple[dict[str, Any], dict[str, Any]]:
    """The held-out scores of the untouched model and of the one that is kept, or the latest while none is chosen."""
    held = facts.of("validated", "loss")
    later = [event for event in held if event["step"] > 0]
    kept = [event for event in later if event["step"] == facts.manifest.get("model_step")] or later
    before, after = facts.part("validation", "before"), facts.part("validation", "after")
    return before or next((event for event in held if event["step"] == 0), {}), after or (kept[-1] if kept else {})


def steps_done(facts: Facts) -> object:
    """How many optimiser steps the run has made."""
    recorded = [int(event["step"]) for event in facts.of("step")]
    return facts.part("totals").get("steps", max(recorded, default=0))


def model_name(facts: Facts) -> str:
    """The model's short name."""
    name = facts.part("model").get("name")
    return str(name).rstrip("/").rsplit("/", 1)[-1] if name else "The model"


def method_name(facts: Facts) -> str:
    """The method as people write it, or an empty string."""
    kind = facts.method.get("kind")
    name = METHODS.get(kind, kind) if isinstance(kind, str) else ""
    rank = number(facts.method.get("rank"))
    return f"{name}, rank {rank:.0f}" if name and rank else name


def headline(facts: Facts) -> dict[str, Any]:
    """The page's first words: `status`, `title`, `lead` sentences."""
    status = STATUS.get(str(facts.manifest.get("status")), "Unfinished")
    before, after = validation(facts)
    title = f"{model_name(facts)} {_outcome(facts, status)}{_movement(before, after)}"
    when = clock(facts.manifest.get("finished")) or clock(facts.manifest.get("created"))
    return {"status": status, "title": title, "when": when, "lead": [*_lead(facts, status, before, after)]}


def _outcome(facts: Facts, status: str) -> str:
    steps = things(steps_done(facts), "step")
    if status == "Failed":
        return f"failed after {steps}"
    if status == "Interrupted":
        return f"was interrupted after {steps}"
    rows = facts.part("data", "counts").get("train")
    on = f" on {things(rows, 'row')}" if number(rows) is not None else ""
    if status == "Unfinished":
        return f"is not finished: {steps}{on} so far"
    method = method_name(facts)
    return f"was trained{on}" + (f" with {method.split(',')[0]}" if method else "")


def _movement(before: dict[str, Any], after: dict[str, Any]) -> str:
    first, last = number(before.get("loss")), number(after.get("loss"))
    if first is None or last is None:
        return ""
    between = f"from {score(first)} to {score(last)}"
    if abs(last - first) <= 0.005 * abs(first):
        return f", and its held-out loss hardly moved, {between}"
    return f", and its held-out loss {'fell' if last < first else 'rose'} {between}"


def _lead(facts: Facts, status: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    reason = str(facts.manifest.get("reason") or "")
    if status == "Interrupted":
        yield "Run the same command on this folder again, and it continues where it stopped."
    elif REASONS.get(reason, reason):
        known = REASONS.get(reason, reason)
        yield known if known.endswith((".", "!", "?")) else known + "."
    if after:
        names = measures(facts.task)
        rows = things(after.get("rows"), "held-out row")
        size = things(after.get("target_tokens"), names.target)
        on = rows if names.target == "row" else f"{rows} ({size})"
        what, key, show = (
            ("Perplexity", "perplexity", score) if names.perplexity else (names.right, "accuracy", percent)
        )
        if before:
            when = "before and after" if status == "Finished" else "before the first step and in between"
            values = f"from {show(before.get(key))} to {show(after.get(key))}"
            yield f"{what} went {values} on {on}, scored by the same code {when}."
        else:
            yield f"{what} is {show(after.get(key))} on {on}; the untouched model was not scored."
    elif before and status != "Finished":
        yield f"The untouched model's held-out loss is {score(before.get('loss'))}; no trained step has been scored yet."
    else:
        yield "No held-out rows were scored after training, so this run does not show whether the model became better."
    yield from _kept_model(facts)


def _kept_model(facts: Facts) -> Iterator[str]:
    kept = number(facts.manifest.get("model_step"))
    held = facts.of("validated", "loss")
    if kept is not None and held and held[-1]["step"] > kept:
        last, best = held[-1], [event for event in held if event["step"] == kept]
        rise = f", where the held-out loss was {score(best[-1]['loss'])}" if best else ""
        yield (
            f"The model kept is that of step {count(kept)}{rise}; "
            f"at step {count(last['step'])} it was {score(last['loss'])}."
        )


def figures(facts: Facts) -> list[Fact]:
    """The strip of numbers below the headline."""
    totals, (before, after), names = facts.part("totals"), validation(facts), measures(facts.task)
    seconds = totals.get("seconds", sum(number(event.get("seconds")) or 0.0 for event in facts.of("step")))
    steps = steps_done(facts)
    epochs = number(totals.get("epochs"))
    arrow, guesses = f"{score(before.get('loss'))} → " if before else "", estimates(totals)
    accuracy = f"was {percent(before.get('accuracy'))}" if before else ""
    spent = (things(steps, "step"), f"{epochs:g} epochs" if epochs else "", guesses["seconds"])
    facts_shown = [
        Fact("Held-out loss", arrow + score(after.get("loss")), names.unit),
        Fact(names.right, percent(after.get("accuracy")), accuracy),
        Fact("Training time", duration(seconds), ", ".join(filter(None, spent))),
        Fact("Speed", f"{count(totals.get('tokens_per_second'))}", "tokens per second"),
        Fact("Peak memory", memory(totals.get("peak_rss_mib")), guesses["peak_mib"] or "resident"),
        Fact("On disk", memory(totals.get("disk_mib")), guesses["disk_mib"]),
        Fact("Trained parameters", percent(ratio(totals.get("trainable_parameters"), totals.get("total_parameters"))),
             f"{short(totals.get('trainable_parameters'))} of {short(totals.get('total_parameters'))}"),
    ]  # fmt: skip
    return [fact for fact in facts_shown if not fact.value.endswith(DASH)]


def estimates(totals: dict[str, Any]) -> dict[str, str]:
    """What the run was estimated to take, in words; none where no estimate was made."""
    low, high = totals.get("estimated_seconds") or (None, None)
    between = f"{duration(low)} to {duration(high)}" if low is not None else DASH
    found = {"seconds": between, **{key: memory(totals.get(f"estimated_{key}")) for key in ("peak_mib", "disk_mib")}}
    return {key: "" if text == DASH else f"estimated {text}" for key, text in found.items()}


def scores(facts: Facts) -> list[Score]:
    """The held-out scores before and after, row by row."""
    before, after = validation(facts)
    if not before and not after:
        return []
    rows, names = [], measures(facts.task)
    for key, label, show, lower in (
        ("loss", f"Loss ({names.unit})", score, True),
        *((("perplexity", "Perplexity", score, True),) if names.perplexity else ()),
        ("accuracy", names.right, percent, False),
    ):
        first, last = number(before.get(key)), number(after.get(key))
        change, verdict = DASH, ""
        if first is not None and last is not None:
            change = f"{100 * (last - first):+.1f} points" if key == "accuracy" else f"{last - first:+,.3f}"
            verdict = "unchanged" if last == first else "better" if (last < first) == lower else "worse"
        rows.append(Score(label, show(first), show(last), change.replace("-", "−"), verdict))
    for key, label in (("target_tokens", f"{names.target.capitalize()}s scored"), ("rows", "Rows scored")):
        if label in [row.label for row in rows]:
            continue
        rows.append(Score(label, count(before.get(key)), count(after.get(key)), "", ""))
    return rows


def incidents(facts: Facts) -> list[str]:
    """What went otherwise than straight ahead, in sentences and in order."""
    found = []
    for change in listed(facts.manifest.get("changes")):
        if isinstance(change, dict):
            changed = "; ".join(map(str, listed(change.get("changed"))))
            found.append(f"Continued on {clock(change.get('at'))} with --allow-changes: {changed}.")
    for event in facts.events:
        step, kind = count(event.get("step")), event["event"]
        if kind == "resumed":
            found.append(f"Continued after step {step} from its checkpoint.")
            skipped = event.get("skipped")
            for reason in skipped if isinstance(skipped, list) else ():
                found.append(f"A damaged checkpoint was passed over: {reason}.")
        elif kind == "budget_halved":
            found.append(
                f"Memory ran out in step {step}: the step was done again with micro-batches of at most "
                f"{things(event.get('tokens'), 'token')}. The result is the same."
            )
        elif kind == "saved" and event.get("error"):
            found.append(f"The checkpoint of step {step} could not be saved: {event['error']}.")
    return found


def validations(facts: Facts) -> list[dict[str, str]]:
    """All held-out scores, for the table behind the chart."""
    return [
        {"step": count(one["step"]), "loss": score(one["loss"]), "perplexity": score(one.get("perplexity")),
         "accuracy": percent(one.get("accuracy")), "best": "best so far" if one.get("best") is True else ""}
        for one in facts.of("validated", "loss")
    ]  # fmt: skip
