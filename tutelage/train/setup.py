"""From a recipe and its material to a run in memory; and what makes two runs the same run."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from tutelage.encode.types import Encoded
from tutelage.engine.backbone import Backbone
from tutelage.engine.encoder import EncoderStack
from tutelage.engine.lora_linear import LoraLinear
from tutelage.engine.precision import ExecutionPlan, choose_precision, device_name
from tutelage.errors import RecipeError
from tutelage.methods import METHODS, Trainable
from tutelage.methods.adapter_file import WEIGHTS, read_adapter
from tutelage.methods.calibrate import made_for
from tutelage.methods.qlora import BLOCKS, calibrate_base, check_package, load_base, quantisation_of, read_quantisation
from tutelage.models.load import load_with_head
from tutelage.recipe import QloraSpec, Recipe
from tutelage.tasks.anchored import Anchored, anchored
from tutelage.tasks.batching import varied
from tutelage.train.loop import TrainState
from tutelage.train.material import Material
from tutelage.train.optim import Optimizer
from tutelage.train.used_rows import used_rows

# Micro-batch budgets. On a CPU 1,024 tokens fill the matrix products; full fine-tuning adds up all gradients once more per
# micro-batch, so the usual step of 8 rows should be one.
AUTO_TOKENS = {"cpu": 2048, "cuda": 16384}
EXECUTION_KEYS = (
    "out",
    "save",
    "samples",
    "forgetting",
    "batch",
    "threads",
    "precision",
)  # may change between two starts of a run


def choose_plan(recipe: Recipe) -> ExecutionPlan:
    """How this machine runs the recipe: measured once, then frozen in the manifest."""
    device = device_name()
    if recipe.precision == "fp16":
        raise RecipeError(
            "fp16 is not available yet", where="precision", why="it needs loss scaling, which is not built",
            fix="precision: bf16, or fp32",
        )  # fmt: skip
    if how := quantisation_of(recipe.method):
        check_package(how)
    threads = recipe.threads or available_cores()
    torch.set_num_threads(threads)
    precision, rates = choose_precision(recipe.precision, device)
    tokens = recipe.batch.tokens if isinstance(recipe.batch.tokens, int) else AUTO_TOKENS[device]
    optim = recipe.optim
    draws = any((getattr(recipe.method, "dropout", 0.0), optim.neftune_alpha, optim.dropout, optim.attention_dropout))
    return ExecutionPlan(
        precision=precision, device=device, threads=threads, tokens=max(tokens, 1),
        share_prefix=recipe.batch.share_prefix and not draws,  # a shared prefix would share its draws
        packed=True, measured_gflops=rates,
    )  # fmt: skip


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build_state(recipe: Recipe, material: Material, plan: ExecutionPlan, store: Path) -> TrainState:
    """The run at step 0: model loaded, method prepared, optimiser made. Deterministic given recipe, data and plan."""
    if recipe.optim.neftune_alpha is not None and material.task.head.kind == "seq2seq":
        raise RecipeError(
            "noise on embeddings is not built for encoder-decoders", where="optim.neftune_alpha",
            why="NEFTune was published for decoders", fix="leave `optim.neftune_alpha` out",
        )  # fmt: skip
    check_parent(recipe)
    torch.set_num_threads(plan.threads)
    torch.manual_seed(recipe.seed)
    model = material.loaded or load_for(recipe, material, plan.dtype, store.parent)
    model = model.to(
        device=plan.device, dtype=plan.dtype
    ).eval()  # dropout of the pre-trained model stays off; `optim.dropout` is ours
    backbone = material.task.backbone(model)
    trainable = METHODS.get(recipe.method.kind).prepare(model, recipe.method, seed=recipe.seed)
    set_training(model)
    backbone = dropping(replace(backbone.settled(), noise=recipe.optim.neftune_alpha or 0.0), recipe)
    start_threads()
    varies = getattr(material.task, "vary", None) is not None  # then ids occur that are in no row
    rows = {} if varies else used_rows(model, trainable.parameters, material.train.rows, recipe.optim.weight_decay)
    anchor = held_to_base(recipe, material, backbone, trainable)
    state = TrainState(
        backbone=backbone, trainable=trainable,
        optimizer=Optimizer(trainable.parameters, recipe.optim, trainable.resting, rows, trainable.faster),
        loss_of=material.task.loss, layouts_of=material.task.layouts,
        vary=functools.partial(varied, material.task), train_rows=material.train.rows, validation_rows=material.validation.rows,
        optim=recipe.optim, saving=recipe.save, validating=recipe.validate_,
        row_weights=material.row_weights, plan=_supported(plan, backbone), seed=recipe.seed, store=store,
        anchored=anchor,
    )  # fmt: skip
    state.adopt(_supported(plan, backbone))
    return state


def held_to_base(recipe: Recipe, material: Material, backbone: Any, trainable: Trainable) -> Anchored | None:
    """The loss with the recipe's `loss.kl`, where it has one; made before anything trains."""
    if not recipe.loss.kl:
        return None
    if material.task.head.kind != "causal":
        raise RecipeError(
            "`loss.kl` needs a causal model", where="loss.kl", fix="leave `loss.kl` out, or model: smollm2-135m",
            why=f"the task {recipe.task.kind} runs on this model with a {material.task.head.kind} head",
        )  # fmt: skip
    trained = [*trainable.parameters.values(), *trainable.resting.values()]
    return anchored(backbone, trained, recipe.loss.kl)


def check_parent(recipe: Recipe) -> None:
    """Refuse an adapter that was trained on a base in 4 bits which this run would not have."""
    adapter, now = getattr(recipe.method, "adapter", None), quantisation_of(recipe.method)
    was = read_quantisation(Path(adapter)) if adapter else None
    if was is None or (was == now and not getattr(recipe.method, "calibrate", 0)):
        return
    more = ("" if was.kind == "nf4" else f"quant_type: {was.kind}, ") + ("" if was.double else "double_quant: false, ")
    fix = f"method: {{kind: qlora, {more}block_size: {was.block_size}, ...}}"
    raise RecipeError(
        "the adapter was trained on another base", where="method.adapter",
        why=f"its base was in {was.kind.upper()} with blocks of {was.block_size}" + (", calibrated" if was.blocks else ""),
        fix="start from the model itself: a calibrated base cannot be taken over yet" if was.blocks else fix,
    )  # fmt: skip


def start_threads() -> None:
    """Let OpenMP make its threads now: where it cannot later, for want of memory, it ends the process."""
    torch.zeros(2**18).add_(1)


def load_for(recipe: Recipe, material: Material, dtype: torch.dtype, folder: Path) -> Any:
    """The model with the head that the task needs, quantised where the method wants it so; what was calibrated is in `folder`."""
    how = quantisation_of(recipe.method, calibrated(recipe, material, folder))
    return load_base(loader_of(material), material.fetched.path, dtype, how)


def calibrated(
    recipe: Recipe, material: Material, folder: Path, say: Callable[[str], None] = lambda text: None
) -> Path | None:
    """The file of the rounded weights that `method.calibrate` asks for, made from the first training rows unless it is there,
    made from the same model, rows and keys."""
    method, to = recipe.method, folder / BLOCKS
    if not isinstance(method, QloraSpec) or not method.calibrate:
        return None
    if material.task.head.kind != "causal" or material.loaded is not None:
        why = "the model was given in memory" if material.loaded is not None else "the model has no causal head"
        raise RecipeError(
            "`calibrate` needs a causal model in a folder", where="method.calibrate", why=why, fix="leave it out"
        )
    rows = [material.train.rows[i] for i in range(min(method.calibrate, len(material.train.rows)))]
    wanted = _made_for(method, material, rows)
    if not to.is_file() or made_for(to) not in ("", wanted):
        say(f"calibrating: the weights are rounded by what {len(rows)} training rows do to them, into {to}")
        calibrate_base(loader_of(material), material.fetched.path, method, rows, to, say, made_for=wanted)
    return to


def _made_for(method: QloraSpec, material: Material, rows: Sequence[Encoded]) -> str:
    """The model, the rows and the keys that rounded weights depend on."""
    keys = {"block_size", "double_quant"} | (
        {"init", "rank", "target_modules", "layers"} if method.init == "qera" else set()
    )
    values = [material.fetched.sha256, method.model_dump(mode="json", include=keys)]
    found = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for row in rows:
        found.update(row.ids.tobytes())
    return found.hexdigest()


def loader_of(material: Material) -> Callable[[torch.dtype], Any]:
    """Loads the model with the head that the task needs, in a dtype."""
    return lambda dtype: load_with_head(material.fetched.path, material.task.head, dtype=dtype)


def dropping(backbone: Backbone, recipe: Recipe) -> Backbone:
    """The same with the recipe's shares of hidden values and attention weights dropped while training."""
    shares = {key: getattr(recipe.optim, key) for key in ("dropout", "attention_dropout")}
    where = next((f"optim.{key}" for key, share in shares.items() if share), None)
    if where is None:
        return backbone
    if getattr(recipe.method, "dropout", 0.0):
        raise RecipeError(
            "two kinds of dropout at once are not built", where=where,
            why="method.dropout drops the adapters' input, in layers that do not have the other", fix="leave one of them out",
        )  # fmt: skip
    if not isinstance(backbone.stack, EncoderStack):
        raise RecipeError(
            f"this dropout is not built for {backbone.model.config.model_type}", where=where,
            why="only BERT's relatives, trained without DoRA, run as layers that have it",
            fix=f"leave `{where}` out; LoRA has its own: method.dropout",
        )  # fmt: skip
    return replace(backbone, stack=replace(backbone.stack, **shares))


def set_training(model: Any, on: bool = True) -> None:
    """Switch the method's own dropout; the pre-trained model's layers stay in eval mode."""
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.train(on)


def _supported(plan: ExecutionPlan, backbone: Backbone) -> ExecutionPlan:
    if backbone.packs and backbone.shares:
        return plan
    if backbone.packs:
        return replace(plan, share_prefix=False)
    return ExecutionPlan(**{**plan.as_json(), "packed": False, "share_prefix": False})  # type: ignore[arg-type]


def identity(recipe: Recipe, material: Material) -> dict[str, Any]:
    """What must be equal for a folder to be continued: every recipe key that changes results, data, and weights."""
    return {
        "recipe": _deciding(recipe),
        "data": {"content": material.prepared.fingerprint, "tokens": material.tokens, **_mix(material)},
        "model": {"weights": material.fetched.sha256, **_adapter_identity(recipe)},
    }


def _deciding(recipe: Recipe) -> dict[str, Any]:
    values = recipe.model_dump(mode="json", by_alias=True)
    for key in (*EXECUTION_KEYS, "model", "data"):  # the last two are compared by content
        values.pop(key)
    return values


def with_later_keys(known: dict[str, Any]) -> dict[str, Any]:
    """An identity that was written before some recipe keys existed: with them at their defaults, as which they were computed."""
    try:
        recipe = Recipe.model_validate({**known["recipe"], "model": "-", "data": {"train": ["-"]}})
    except ValidationError:  # a key is gone since: that is a difference
        return known
    return {**known, "recipe": _deciding(recipe)}


def _mix(material: Material) -> dict[str, str]:
    """How often rows come, where that differs."""
    weights = material.row_weights
    return {"mix": hashlib.sha256(repr(weights).encode()).hexdigest()} if weights else {}


def _adapter_identity(recipe: Recipe) -> dict[str, str]:
    """The content of the adapter that the run starts from, if there is one."""
    adapter = getattr(recipe.method, "adapter", None)
    if adapter is None:
        return {}
    read_adapter(Path(adapter))  # refuses what is no adapter, before its bytes are taken for one
    return {"adapter": hashlib.sha256((Path(adapter) / WEIGHTS).read_bytes()).hexdigest()}


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`key: old → new` for every leaf in which two identities differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [line for k in keys for line in differences(old.get(k), new.get(k), f"{path}.{k}" if path else str(k))]
    if old == new:
        return []
    shorten = [json.dumps(value)[:60] for value in (old, new)]
    return [f"{path}: {shorten[0]} → {shorten[1]}"]
