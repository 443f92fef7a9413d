"""The checks of a self-test, each a pair of executions that must agree, and how far they were from it."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from tutelage.engine.stack import Keep
from tutelage.methods.lora import lora_layers
from tutelage.methods.types import MethodSpec
from tutelage.train.loop import TrainState
from tutelage.train.selftest.execution import Computed, Execution, compute, one_batch
from tutelage.train.selftest.resume import interrupted_and_whole
from tutelage.train.selftest.subject import Subject, make_state

BOUND = 1e-5  # relative L2 of each tensor in fp32; a wrong mask or divisor is off by 1e-3 and more
FLOOR = 1e-8  # of the whole gradient's norm: below it a tensor is rounding
LOSS = "loss"

PLAIN = Execution()
FAST = Execution(attention=True, chunked_loss=True, lora_product=True)


@dataclass(frozen=True)
class Check:
    """`name` says what must equal what. `ours` and `theirs` are executions; None is one padded batch."""

    name: str
    ours: Execution
    theirs: Execution | None


@dataclass(frozen=True)
class Outcome:
    """One check on one subject. `difference` is the largest relative one, in `tensor`."""

    subject: str
    method: str
    check: str
    passed: bool
    difference: float
    tensor: str
    bound: float
    detail: str = ""


def checks(state: TrainState) -> Iterator[Check]:
    """What can be compared on this model, from the plainest pair to the whole of what training does."""
    packs, layers = state.backbone.packs, state.backbone.stack is not None
    alone = replace(FAST, attention=packs)
    yield Check("accumulation = one batch", PLAIN, None)
    if packs:
        yield Check("our attention = plain", replace(PLAIN, attention=True), PLAIN)
    if not state.backbone.plain_logits:
        yield Check("loss without logits = plain", replace(PLAIN, chunked_loss=True), PLAIN)
    if any(True for _ in lora_layers(state.backbone.model)):
        yield Check("LoRA product = plain composition", replace(PLAIN, lora_product=True), PLAIN)
    if layers:
        yield Check("our layers = the model's own", replace(alone, layers=True), alone)
    alone = replace(alone, layers=layers)
    most = replace(alone, packs=2, share_prefix=True) if packs else alone
    if packs:
        one = replace(alone, packs=1)
        yield Check("packed = unpacked", one, alone)
        yield Check("shared prefix = not shared", replace(one, share_prefix=True), one)
        yield Check("packed micro-batches = one pack", replace(alone, packs=2), one)
    whole = replace(alone, packs=1, share_prefix=True) if packs else alone  # one graph: what it keeps can be counted
    if layers:
        yield Check("recompute gated units = keep all", replace(whole, keep=Keep.ATTENTION), whole)
    if layers or state.backbone.model.supports_gradient_checkpointing:
        yield Check("recompute layers = keep all", replace(whole, keep=Keep.INPUT), whole)
    yield Check("as trained = one batch", most, None)


def examine(subject: Subject, spec: MethodSpec, store: Path) -> Iterator[Outcome]:
    """Every check of `subject` trained by `spec`; the last one writes checkpoints below `store`."""
    state = make_state(subject, spec, store)
    known: dict[Execution | None, Computed] = {}

    def computed(how: Execution | None) -> Computed:
        if how not in known:
            known[how] = one_batch(state, subject.rows) if how is None else compute(state, subject.rows, how)
        return known[how]

    for check in checks(state):
        ours, theirs = computed(check.ours), computed(check.theirs)
        yield judged(subject, spec, check, ours, theirs)
    known.clear()
    yield resume_outcome(subject, spec, store)


def judged(subject: Subject, spec: MethodSpec, check: Check, ours: Computed, theirs: Computed) -> Outcome:
    """The outcome of comparing loss and gradients."""
    value, tensor = furthest(ours, theirs)
    zero = [name for name, gradient in theirs.gradients.items() if not bool(gradient.any())]
    recomputes = check.theirs is not None and check.ours.keep != check.theirs.keep
    detail = ""
    if zero:
        detail = f"nothing was compared: the gradient of {zero[0]} is zero"
    elif recomputes and ours.kept >= theirs.kept:
        detail = f"nothing was recomputed: {ours.kept:,} bytes were kept, {theirs.kept:,} without"
    return Outcome(
        subject.name, spec.kind, check.name, value <= BOUND and not detail, value, tensor, BOUND, detail
    )  # fmt: skip


def furthest(ours: Computed, theirs: Computed) -> tuple[float, str]:
    """The largest relative difference of the losses and of any gradient (L2, floored), and where it is."""
    whole = math.sqrt(math.fsum(float(g.double().norm()) ** 2 for g in theirs.gradients.values()))
    found = [(abs(ours.loss - theirs.loss) / max(abs(theirs.loss), 1e-30), LOSS)]
    found += [
        (relative(ours.gradients[name], gradient, FLOOR * whole), name) for name, gradient in theirs.gradients.items()
    ]
    return max(found, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])


def relative(ours: Tensor, theirs: Tensor, floor: float = 0.0) -> float:
    """|ours - theirs| / max(|theirs|, floor) in L2; 0 where both are zero."""
    error = float((ours.double() - theirs.double()).norm())
    return error / max(float(theirs.double().norm()), floor) if error else 0.0


def resume_outcome(subject: Subject, spec: MethodSpec, store: Path) -> Outcome:
    """A run that was interrupted half-way and continued from its checkpoint, against one that was not: bit for bit."""
    make: Callable[[Path], TrainState] = lambda folder: make_state(subject, spec, folder)  # noqa: E731
    try:
        parts, whole, moved = interrupted_and_whole(make, store)
    finally:
        shutil.rmtree(store, ignore_errors=True)
    value, tensor = differing(parts, whole)
    detail = "" if moved else "nothing was compared: no weight moved after the checkpoint"
    return Outcome(
        subject.name, spec.kind, "resume = no interruption", value == 0 and moved, value, tensor, 0.0, detail
    )  # fmt: skip


def differing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest relative difference of two sets of tensors; infinite where one is missing."""
    if ours.keys() != theirs.keys():
        return math.inf, min(ours.keys() ^ theirs.keys())
    return max((relative(ours[name], theirs[name]), name) for name in theirs)
