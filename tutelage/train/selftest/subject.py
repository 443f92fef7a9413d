"""What a self-test runs on: a small model of the user's, or a tiny one made on the spot, and what to do with it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tutelage.encode.types import Encoded
from tutelage.engine.backbone import make_backbone
from tutelage.engine.precision import ExecutionPlan, device_name
from tutelage.errors import RecipeError
from tutelage.methods import METHODS
from tutelage.methods.lora import lora_layers
from tutelage.methods.types import MethodSpec, Trainable
from tutelage.models.load import load_model
from tutelage.models.tiny import VOCABULARY, tiny_model
from tutelage.recipe import FullSpec, HalfSpec, LoraSpec, OptimSpec, Recipe, SaveSpec, ValidateSpec
from tutelage.tasks import chat
from tutelage.train.loop import LossOf, TrainState
from tutelage.train.material import Material
from tutelage.train.optim import Optimizer
from tutelage.train.selftest.rows import random_rows, sample_rows
from tutelage.train.setup import available_cores, set_training

STEPS, HALFWAY = 4, 2  # of the run that is interrupted
ADAPTER_STD = 0.1  # B must not be zero, or nothing behind it has a gradient
MOST_VALUES = 160_000_000  # larger tensors stay frozen: their gradients would not fit beside each other


@dataclass(frozen=True)
class Subject:
    """A model in the making, its rows, and the methods to train it with."""

    name: str
    make: Callable[[], Any]  # a fresh fp32 model in eval mode, the same one each time
    rows: tuple[Encoded, ...]
    methods: tuple[MethodSpec, ...]
    loss_of: LossOf = chat.loss


def tiny_subject(kind: str) -> Subject:
    """A tiny random model of the family `kind` on rows of random tokens."""
    methods = (FullSpec(), LoraSpec(rank=4, alpha=8.0, dropout=0.1))
    return Subject(f"tiny {kind}", lambda: tiny_model(kind), tuple(random_rows(VOCABULARY)), methods)


def recipe_subject(recipe: Recipe, material: Material) -> Subject:
    """The first layers of the recipe's model on some of its rows, with `full`, its LoRA, and `half` where it says so."""
    if material.task.head.kind != "causal":
        raise RecipeError(
            "the self-test compares causal models only so far", where="task",
            why="tasks with a head of their own are held to the plain way by tests/conformance", fix="tutelage selftest",
        )  # fmt: skip
    base = load_model(material.fetched.path, dtype=torch.float32, shallow=True)
    lora = recipe.method if isinstance(recipe.method, LoraSpec) else LoraSpec()
    targets = lora.target_modules
    if isinstance(targets, list):  # full names may lie in layers that are left out
        targets = sorted({name.rpartition(".")[2] for name in targets})
    half = (HalfSpec(),) if isinstance(recipe.method, HalfSpec) else ()
    adapter = lora.model_copy(update={"adapter": None, "target_modules": targets, "layers": None})
    methods = (FullSpec(), *half, adapter)
    rows = tuple(sample_rows(material.train.rows))
    name = f"{recipe.model}, {base.config.get_text_config().num_hidden_layers} layers"
    return Subject(name, lambda: copy.deepcopy(base), rows, methods)


def make_state(subject: Subject, spec: MethodSpec, store: Path) -> TrainState:
    """A run of `subject` at step 0 in fp32, its adapters randomised; the same one each time."""
    model = subject.make().to(device_name())
    backbone = make_backbone(model)
    trainable = METHODS.get(spec.kind).prepare(model, spec, seed=0)
    trainable, backbone = _without_largest(trainable), backbone.settled()
    generator = torch.Generator().manual_seed(1)
    for _, layer in lora_layers(model):
        layer.b.data.copy_(torch.randn(layer.b.shape, generator=generator) * ADAPTER_STD)
    set_training(model)
    optim = OptimSpec(steps=STEPS, batch_size=3, learning_rate=1e-3)
    plan = ExecutionPlan(
        precision="fp32", device=device_name(), threads=available_cores(), tokens=sum(len(r.ids) for r in subject.rows),
        share_prefix=backbone.packs and getattr(spec, "dropout", 0.0) == 0.0, packed=backbone.packs, measured_gflops={},
    )  # fmt: skip
    return TrainState(
        backbone=backbone, trainable=trainable,
        optimizer=Optimizer(trainable.parameters, optim, trainable.resting, faster=trainable.faster),
        loss_of=subject.loss_of,
        train_rows=subject.rows, validation_rows=subject.rows[:2], optim=optim, saving=SaveSpec(every=HALFWAY),
        validating=ValidateSpec(every=HALFWAY), plan=plan, seed=0, store=store,
    )  # fmt: skip


def _without_largest(trainable: Trainable) -> Trainable:
    small = {name: p for name, p in trainable.parameters.items() if p.numel() <= MOST_VALUES}
    for name in trainable.parameters.keys() - small.keys():
        trainable.parameters[name].requires_grad_(False)
    return replace(trainable, parameters=small)


def notes_of(subject: Subject) -> tuple[str, ...]:
    """What of this model runs the plain way, as a run would say it; and what is too large to be compared here."""
    model = subject.make().to(device_name())
    large = [name for name, p in model.named_parameters() if p.numel() > MOST_VALUES]
    frozen = (f"not compared, as they are too large: the gradients of {', '.join(large)}",) if large else ()
    return (*make_backbone(model).notes, *frozen)
