"""One system on the rows: opened, asked, probed, scored and closed again, so that only one model is in memory."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage.data.types import Conversation
from tutelage.evaluate.files import write_predictions
from tutelage.evaluate.forgetting import Probed, probe
from tutelage.evaluate.probing import Probe
from tutelage.evaluate.rows import Rows, with_columns
from tutelage.evaluate.scoring import metrics_for, score
from tutelage.evaluate.types import Scores
from tutelage.generate.decode import context_limit
from tutelage.methods.opening import open_model
from tutelage.metrics import Prediction
from tutelage.recipe import ChatSpec
from tutelage.registry import Registry
from tutelage.tasks import chat
from tutelage.tasks.chat_answers import predict

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """How every system is asked, the same for all of them."""

    task: str
    spec: ChatSpec
    folder: Path
    precision: str = "fp32"  # never "auto": what the machine measures while it is busy must not change a score
    max_tokens: int = 256
    seed: int = 0
    metrics: tuple[str, ...] = ()
    group: str | None = None
    probes: Mapping[str, Sequence[Probe]] | None = None


@dataclass(frozen=True)
class Scored:
    """One system's predictions and scores; `too_long` are the places of rows that its context cannot hold."""

    name: str
    predictions: list[Prediction]
    scores: Scores
    probed: Probed | None
    too_long: tuple[str, ...] = ()


Evaluate = Callable[[str, bool, str, Rows, Asked, Probed | None, Say], Scored]
EVALUATED: Registry[Evaluate] = Registry("task that can be evaluated")


@EVALUATED.add("chat")
def score_chat(
    model: str, untouched: bool, label: str, rows: Rows, asked: Asked, base: Probed | None, say: Say
) -> Scored:
    """A causal model on chat rows; with `untouched` the model that a run started from. `base` are the base model's probes."""
    opened = open_model(model, base=untouched, precision=asked.precision, say=say)
    name = "untouched model" if untouched else opened.name
    fitting, too_long = _that_fit(opened.model, opened.template, asked.spec, rows.rows)
    say(f"{label}: {len(fitting)} rows, greedy answers of at most {asked.max_tokens} tokens")
    found = predict(
        opened.model, opened.template, asked.spec, fitting, max_tokens=asked.max_tokens, seed=asked.seed,
        done=lambda count: say(f"{label}: {count} of {len(fitting)} rows answered"),
    )  # fmt: skip
    predictions = with_columns(found, rows, asked.group)
    probed = None
    if asked.probes:
        say(f"{label}: probes of general text, knowledge, common sense and instructions")
        probed = probe(opened.model, opened.template, asked.probes, base=base, seed=asked.seed)
    del opened
    gc.collect()
    file = write_predictions(asked.folder / f"{label}.jsonl", predictions)
    names = metrics_for(asked.task, predictions, asked.metrics)
    return Scored(name, predictions, score(name, predictions, names, seed=asked.seed, file=file), probed, too_long)


def _that_fit(
    model: object, template: object, spec: ChatSpec, rows: Sequence[Conversation]
) -> tuple[list[Conversation], tuple[str, ...]]:
    """The rows whose tokens the model's context holds, and the places of the others."""
    limit = context_limit(model)
    encoded = chat.encode(template, spec, rows)  # type: ignore[arg-type]
    long = {one.at for one in encoded if limit is not None and len(one.ids) >= limit}
    return [row for row in rows if row.at not in long], tuple(str(at) for at in sorted(long))
