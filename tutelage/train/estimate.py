"""What a run will take: memory by part, time and disk, from the sketch of it; and one line of that before the first step."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tutelage.engine.precision import ExecutionPlan, measure_gflops
from tutelage.methods.qlora import calibrated_bytes
from tutelage.models.describe import stored_dtypes
from tutelage.recipe import LoraSpec, QloraSpec
from tutelage.runs import plain
from tutelage.train.budget import libraries
from tutelage.train.loop import TrainState
from tutelage.train.material import Material
from tutelage.train.memory import anonymous_mib
from tutelage.train.sketch import MOST_STEPS, Sketch, Walk, fullest_rows, lengths_of

MIB = 2**20
# Of the rate of one matrix product, what whole steps reached here: long rows of a wide model, short of a narrow one.
EFFICIENCY = (0.25, 0.8)
MEMORY_RANGE = (0.8, 1.25)  # around the estimate: what issue 5 allows
FORWARD = 0.45  # of a step's operations: what scoring held-out rows takes for as many tokens (LoRA 1/2, full 1/3)
STORED_TOKEN = 4 + 4 + 1  # bytes of id, weight and role in the encoded store


@dataclass(frozen=True)
class Memory:
    """MiB where a run holds most. `mapped` are weights that stay in their file and are read from the page cache."""

    process: float  # Python and libraries as they stand before the model is there
    weights: float
    mapped: float
    optimizer: float
    gradients: float
    activations: float
    loss: float
    working: float
    allocator: float
    libraries: float

    @property
    def peak(self) -> float:
        """Anonymous memory, which is what is measured; `mapped` is not."""
        return float(sum(asdict(self).values())) - self.mapped

    @property
    def resident(self) -> float:
        """All that must be in memory for the run to be fast."""
        return self.peak + self.mapped


@dataclass(frozen=True)
class Work:
    """Steps, and the operations of all of them; `tokens` are those of the rows."""

    steps: int
    tokens: int
    operations: float
    validation: float  # operations for held-out rows

    def seconds(self, gflops: float) -> tuple[float, float]:
        """The range at this rate of one matrix product."""
        least = (self.operations + self.validation) / (gflops * 1e9)
        return least / EFFICIENCY[1], least / EFFICIENCY[0]


@dataclass(frozen=True)
class Disk:
    """Bytes. `checkpoints` are those that stay, `writing` one more while the next is written."""

    checkpoints: int
    writing: int
    model: int
    calibrated: int  # a calibrated base, in the run folder and in the model
    rows: int


def memory_of(sketch: Sketch, material: Material, walk: Walk | None = None, process: float | None = None) -> Memory:
    """Of the fullest step of the run; `process` is what this process takes now, where it is not given."""
    walk = walk or sketch.walk(fullest_rows(sketch.state))
    mapped = mapped_bytes(sketch, material)
    return Memory(
        process=anonymous_mib() if process is None else process, weights=(walk.weights - mapped) / MIB, mapped=mapped / MIB,
        optimizer=walk.optimizer / MIB, gradients=walk.gradients / MIB, activations=walk.activations / MIB,
        loss=walk.loss / MIB, working=walk.working / MIB, allocator=walk.allocator / MIB,
        libraries=libraries(sketch, walk) / MIB,
    )  # fmt: skip


def mapped_bytes(sketch: Sketch, material: Material) -> int:
    """Frozen weights that the loader leaves in their file: those stored as the run computes in. Updates would copy them."""
    plan = sketch.plan
    if material.loaded is not None or plan.device == "cuda":
        return 0
    if stored_dtypes(material.fetched.path) != {str(plan.dtype).removeprefix("torch.")}:
        return 0
    model, trained = sketch.state.backbone.model, set(sketch.state.trainable.parameters)
    return sum(p.nbytes for name, p in model.named_parameters() if name not in trained)


def work_of(state: TrainState, walk: Walk, walked: Sequence[Any]) -> Work:
    """The run's operations, by token as in the step that was walked through on the rows `walked`."""
    lengths = lengths_of(state.train_rows)
    seen = min(state.total_steps, MOST_STEPS)
    tokens = sum(int(lengths[state.batches.of_step(step)].sum()) for step in range(seen)) * state.total_steps / seen
    per_token = walk.operations / max(int(lengths_of(walked).sum()), 1)
    held = lengths_of(state.validation_rows)[: state.validating.rows] if len(state.validation_rows) else lengths[:0]
    every = state.validating.every or state.batches.per_epoch
    times = 1 + math.ceil(state.total_steps / every)
    return Work(state.total_steps, round(tokens), per_token * tokens, per_token * FORWARD * float(held.sum()) * times)


def disk_of(state: TrainState, method: object) -> Disk:
    """From the tensors that a checkpoint and the finished model hold."""
    state.optimizer.reserve()
    checkpoint = sum(tensor.nbytes for tensor in state.optimizer.state().values())
    masters = sum(m.nbytes for m in state.optimizer.masters.values())
    kept = min(state.saving.keep + (1 if len(state.validation_rows) else 0), state.total_steps)
    whole = not isinstance(method, LoraSpec)
    model = sum(p.nbytes for p in state.backbone.model.parameters()) if whole else masters
    tokens = int(lengths_of(state.train_rows).sum())
    blocks = calibrated_bytes(state.backbone.model, method) if isinstance(method, QloraSpec) else 0
    return Disk(checkpoint * kept, checkpoint, model, 2 * blocks, tokens * STORED_TOKEN)


def estimate_line(state: TrainState, work: Work, seconds: tuple[float, float], memory: Memory) -> str:
    """The plan, with ranges instead of figures that nobody can know."""
    mean, rows = work.tokens / max(work.steps, 1), min(state.optim.batch_size, len(state.train_rows))
    per_step = math.ceil(mean / state.plan.tokens) if state.plan.packed else rows
    share = state.trainable.count / state.trainable.total
    low, high = (memory.peak * factor for factor in MEMORY_RANGE)
    line = (
        f"plan: {work.steps} steps of {state.optim.batch_size} rows ({mean / rows:.0f} tokens each, about {per_step} "
        f"micro-batches of at most {state.plan.tokens:,} tokens), {state.plan.precision} on {state.plan.device} with "
        f"{state.plan.threads} threads, training {state.trainable.count:,} of {state.trainable.total:,} parameters "
        f"({share:.2%}); a step should take {seconds[0] / work.steps:.2g} to {seconds[1] / work.steps:.2g} s "
        f"and memory peak at {low:,.0f} to {high:,.0f} MiB"
    )
    if state.anchored:
        line += f"; held to the base model, of which {state.anchored.bytes / 2**20:,.0f} MiB stand beside it"
    return line


def rate_of(plan: ExecutionPlan) -> float:
    """GFLOP/s of a matrix product in the plan's precision on this machine."""
    return plan.measured_gflops.get(plan.precision) or measure_gflops(plan.dtype, plan.device)


def as_json(memory: Memory) -> dict[str, Any]:
    """MiB by part, their sum, and the weights that stay in their file."""
    values = {name: round(value, 1) for name, value in asdict(memory).items() if name != "mapped"}
    return {"parts_mib": plain(values), "mapped_mib": round(memory.mapped, 1), "peak_mib": round(memory.peak, 1)}
