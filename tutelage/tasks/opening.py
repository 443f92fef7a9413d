"""Open a run, a model folder or a name for its task: what evaluation and anyone who wants predictions starts from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tutelage.data.types import Row
from tutelage.engine.four_bits import Quantisation
from tutelage.engine.precision import ExecutionPlan, choose_precision, device_name
from tutelage.errors import MissingInputError, UsageError
from tutelage.methods import lora
from tutelage.methods.adapter_file import CONFIG
from tutelage.methods.qlora import dequantise, load_base, read_quantisation
from tutelage.metrics.types import Prediction
from tutelage.models.fetch import fetch
from tutelage.models.load import family_of, load_tokenizer, load_with_head
from tutelage.models.ref import parse_ref
from tutelage.models.safety import check_folder, read_object
from tutelage.recipe import Recipe, read_recipe
from tutelage.runs import ALL_TASKS, MANIFEST, TASK, read_json, run_folder
from tutelage.tasks.types import TASKS, Bound, Opening
from tutelage.taskspec import TASKS as SPECS
from tutelage.taskspec import ChatSpec, TaskSpec

PREDICT_TOKENS = 2048  # of a micro-batch without gradients
Say = Callable[[str], None]


@dataclass(frozen=True)
class OpenedTask:
    """A model in eval mode with its task. `predict(rows)` is what evaluation needs."""

    task: Bound
    backbone: Any
    plan: ExecutionPlan
    name: str

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """What the model makes of each row."""
        return self.task.predict(self.backbone, rows, self.plan)


def open_for_task(
    name: str, *, base: bool = False, task: TaskSpec | None = None, max_tokens: int | None = None,
    rows: Sequence[Row] = (), others: Sequence[Row] = (), precision: str = "auto", merge: bool = True,
    say: Say = lambda text: None,
) -> OpenedTask:  # fmt: skip
    """The model of a run folder (with `base` the untouched one), of a model folder, or of a name.

    A run and a tuned model know their task, and the kind of `task` says which of several; for any other model `task` says it,
    and label names come from `rows`.
    A label in `others` that is none of them is a DataError. An adapter is added to the weights, or with `merge=False` computed
    beside them.
    """
    folder = run_folder(name)
    if folder is not None:
        return _open_run(folder, base, task, max_tokens, others, precision, merge, say)
    fetched = fetch(parse_ref(name), say=say)
    known = read_task(fetched.path, task.kind if task else None)
    spec = known or task
    if spec is None:
        raise UsageError(f"the task of {name} is not known", fix="name one, e.g. --task classify")
    given = ((), others) if known else (rows, others)  # a tuned model's own label names are those of its head
    return _open(spec, fetched.path, None, fetched.path, max_tokens or 1024, given, name, precision)


def read_task(model: Path, kind: str | None = None) -> TaskSpec | None:
    """The task that a tuned model folder says it was trained for; of several, the one of `kind`."""
    if not (model / TASK).is_file():
        return None
    known = [read_json(model / TASK), *(read_json(model / ALL_TASKS) if (model / ALL_TASKS).is_file() else [])]
    values = next((values for values in known if kind in (None, values["kind"])), None)
    return None if values is None else SPECS[values["kind"]].model_validate(values)  # type: ignore[return-value]


def _open_run(
    folder: Path,
    base: bool,
    task: TaskSpec | None,
    max_tokens: int | None,
    others: Sequence[Row],
    precision: str,
    merge: bool,
    say: Say,
) -> OpenedTask:
    manifest, tuned = read_json(folder / MANIFEST), folder / "model"
    if not tuned.is_dir():
        raise MissingInputError(
            "this run has no finished model yet", where=str(folder), fix=f"tutelage train {folder / 'recipe.yaml'}"
        )
    recipe: Recipe | None = read_recipe(folder / "recipe.yaml") if (folder / "recipe.yaml").is_file() else None
    spec = read_task(tuned, task.kind if task else None) or task or ChatSpec()
    longest = max_tokens or (recipe.max_tokens if recipe else 1024)
    origin = Path(manifest["model"]["path"])
    if not origin.is_dir():
        origin = fetch(parse_ref(manifest["model"]["name"]), say=say).path
    quantisation, rows = read_quantisation(tuned), ((), others)
    if base:
        return _open(spec, origin, None, origin, longest, rows, f"{folder} (base)", precision, quantisation)
    if (tuned / CONFIG).is_file():
        return _open(spec, origin, tuned, tuned, longest, rows, str(folder), precision, quantisation, merge)
    return _open(spec, tuned, None, tuned, longest, rows, str(folder), precision)


def _open(
    spec: TaskSpec,
    model: Path,
    adapter: Path | None,
    tokenizer: Path,
    max_tokens: int,
    rows: tuple[Sequence[Row], Sequence[Row]],  # of training, and others
    name: str,
    wanted: str,
    quantisation: Quantisation | None = None,
    merge: bool = True,
) -> OpenedTask:
    check_folder(model)
    device = device_name()
    precision, rates = choose_precision(wanted, device)
    config = read_object(model / "config.json")
    tokens = load_tokenizer(tokenizer if (tokenizer / "tokenizer.json").is_file() else model)
    opening = Opening(tokens, config, family_of(config), max_tokens, "truncate", tuple(rows[0]), tuple(rows[1]))
    task = TASKS.get(spec.kind).open(spec, replace(opening, eos_ids=_stop_ids(model)))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.manual_seed(0)  # an untouched model's new head is drawn
    loaded = load_base(
        lambda dtype: load_with_head(model, task.head, dtype=dtype), model, dtype, quantisation
    ).to(device)  # fmt: skip
    if adapter is not None:
        lora.attach(loaded, adapter)
    if merge or adapter is None:
        dequantise(loaded)
        lora.merge(loaded)
    backbone = task.backbone(loaded.eval())
    plan = ExecutionPlan(
        precision,
        device,
        torch.get_num_threads(),
        PREDICT_TOKENS,
        backbone.packs and backbone.shares,
        backbone.packs,
        rates,
    )
    return OpenedTask(task, backbone, plan, name)


def _stop_ids(model: Path) -> tuple[int, ...]:
    path = model / "generation_config.json"
    ids = read_json(path).get("eos_token_id") if path.is_file() else None
    return (ids,) if isinstance(ids, int) else tuple(i for i in ids or [] if isinstance(i, int))
