"""What evaluate and compare look like to a reader: scores with intervals, verdicts, what was forgotten."""

from collections.abc import Iterator, Mapping
from typing import Any

from tutelage.columns import block, table


def interval(score: Mapping[str, Any]) -> str:
    """A score with its interval."""
    low, high = (f"{score[end]:.4g}" if score[end] is not None else "?" for end in ("low", "high"))
    value = f"{score['value']:.4g}" if score["value"] is not None else "-"
    return f"{value} [{low}, {high}]"


def verdicts(differences: Mapping[str, Mapping[str, Any]], of: str = "metric") -> Iterator[str]:
    """One line for each of what they are `of`: first, second, difference with its interval, and what it allows to say."""
    rows = []
    for name, one in differences.items():
        said = one["verdict"] if one["verdict"] != "cannot tell" else f"cannot tell with n = {one['n']}"
        first, second = (f"{one[key]:.4g}" if one[key] is not None else "-" for key in ("first", "second"))
        rows.append([name, first, second, interval(one), said])
    yield from table(rows, [of, "first", "second", "difference [95 %]", "the second is"])


def show_forgetting(found: Mapping[str, Any] | None) -> Iterator[str]:
    """What became better or worse besides the task, and how far the model moved."""
    if found is None:
        return
    yield ""
    yield "besides the task (probes)"
    yield from verdicts(found["probes"])
    if found.get("texts") == "bits_per_byte":
        yield "the two models have different tokens: texts that both were asked are compared by bits per byte, without divergence"
    if found["divergence"] is not None:
        yield f"divergence from the base model on its own answers: {interval(found['divergence'])} nats per token"


def show_evaluate(result: dict[str, Any]) -> Iterator[str]:
    """The scores of model, untouched model and baselines, then the verdicts."""
    systems = [one for one in (result["untouched"], *result["baselines"]) if one]
    names = [result["model"], *(one["system"] for one in systems)]
    rows = [
        [
            name,
            *(
                interval(one[name]) if name in one else "-"
                for one in (result["metrics"], *(s["metrics"] for s in systems))
            ),
        ]
        for name in result["metrics"]
    ]
    yield f"{result['rows']:,} rows of {result['data']}, task {result['task']}; 95 % intervals"
    yield from table(rows, ["metric", *names])
    for name, why in result["left_out"].items():
        yield f"not scored: {name} ({why})"
    if result["too_long"]:
        yield f"not scored: {len(result['too_long'])} rows that the model's context cannot hold"
    for one in result["slices"]:
        yield f"{one['by']} = {one['value']}: {result['main_metric']} {interval(one['score'])} (n = {one['score']['n']})"
    if result["comparison"]:
        yield ""
        yield f"{result['comparison']['second']} against {result['comparison']['first']}"
        yield from verdicts(result["comparison"]["differences"])
    yield from show_forgetting(result["forgetting"])
    if result.get("learning_curve"):
        yield ""
        found = result["learning_curve"]
        for point in found["points"]:
            yield f"trained on {point['rows']:,} rows ({point['share']:.0%}): {found['metric']} {interval(point['score'])}"
        yield found["sentence"]
    yield f"predictions   {result['predictions']}"
    if result.get("label_next"):
        yield f"label next    {result['label_next']}"
    if "report" in result:
        yield f"report        {result['report']}"


def show_judge(found: Mapping[str, Any] | None) -> Iterator[str]:
    """What the judge says of the second, and whether it says the same in both orders."""
    if found is None:
        return
    said = found["verdict"] if found["verdict"] != "cannot tell" else "not told from the first"
    yield f"judge   {found['model']}: the second is {said}; wins {found['wins']}, ties {found['ties']}, losses {found['losses']}"
    yield f"        it wins {interval(found['win_rate'])} of the rows, a tie being half a win"
    yield f"        both orders agree on {interval(found['agreement'])}; {found['unread']} rows without a verdict; {found['rows']}"


def show_compare(result: dict[str, Any]) -> Iterator[str]:
    """The verdicts, then rows that changed."""
    yield f"first   {result['first']}"
    yield f"second  {result['second']}"
    yield f"{result['n']:,} rows of {result['data']}, task {result['task']}"
    yield from verdicts(result["differences"])
    if result["slices"]:
        yield ""
        yield f"{result['main_metric']} by {result['slices'][0]['by']}"
        yield from verdicts({one["value"]: one["difference"] for one in result["slices"]}, "rows")
    yield from show_judge(result["judge"])
    yield from show_forgetting(result["forgetting"])
    for row in result["changed"][:5]:
        yield ""
        yield f"{row['file']}:{row['row']}  {row['input'][:100]}"
        yield from block("  first   ", str(row["before"]))
        yield from block("  second  ", str(row["output"]))
