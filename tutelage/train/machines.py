"""Machines that an estimate can be made for without having them: memory, and how fast one matrix product is."""

from dataclasses import dataclass, replace

from tutelage.engine.memory import room
from tutelage.engine.precision import ExecutionPlan, choose_precision
from tutelage.errors import UsageError
from tutelage.recipe import Recipe
from tutelage.registry import suggestion
from tutelage.train.memory import anonymous_mib
from tutelage.train.setup import AUTO_TOKENS, choose_plan

GIB = 1024  # MiB


@dataclass(frozen=True)
class Machine:
    """`memory_mib` in all, of which others take `taken_mib`. `gflops`: of one matrix product in `precision`; `source` says whence.

    `kind` is "cpu" or "cuda": on a GPU the process lives elsewhere and only the model, its training and the driver take its memory.
    """

    name: str
    kind: str
    memory_mib: float
    taken_mib: float
    precision: str
    gflops: float
    source: str

    @property
    def free_mib(self) -> float:
        """What a run may take."""
        return self.memory_mib - self.taken_mib


SYSTEM, DRIVER = (
    3 * GIB,
    0.75 * GIB,
)  # assumed: a desktop with a browser; CUDA's context, cuBLAS and what a desktop draws
COMPUTED = "computed, not measured: 4 cores x 32 fp32 operations a cycle x 2.5 GHz"
MACHINES = {
    machine.name: machine
    for machine in (
        Machine("8gb-laptop", "cpu", 8 * GIB, SYSTEM, "fp32", 320, COMPUTED),
        Machine("16gb-laptop", "cpu", 16 * GIB, SYSTEM, "fp32", 320, COMPUTED),
        Machine("32gb-laptop", "cpu", 32 * GIB, SYSTEM, "fp32", 320, COMPUTED),
        Machine(
            "10gb-gpu", "cuda", 10 * GIB, DRIVER, "bf16", 59_500, "published: GeForce RTX 3080, dense bf16, fp32 sums"
        ),
        Machine(
            "24gb-gpu", "cuda", 24 * GIB, DRIVER, "bf16", 71_000, "published: GeForce RTX 3090, dense bf16, fp32 sums"
        ),
        Machine("48gb-gpu", "cuda", 48 * GIB, DRIVER, "bf16", 154_800, "published: RTX A6000, dense bf16"),
        Machine("80gb-gpu", "cuda", 80 * GIB, DRIVER, "bf16", 312_000, "published: A100, dense bf16"),
        Machine("141gb-gpu", "cuda", 141 * GIB, DRIVER, "bf16", 989_000, "published: H200, dense bf16"),
    )
}


def machine_of(name: str | None, recipe: Recipe) -> tuple[Machine, ExecutionPlan]:
    """The machine called `name`, or this one (measured), and the plan that a run has there."""
    if name is None:
        plan = choose_plan(recipe)
        return _this(plan), plan
    if name not in MACHINES:
        raise UsageError(f"no machine is called `{name}`", fix=suggestion(name, sorted(MACHINES)))
    machine = MACHINES[name]
    precision = machine.precision if recipe.precision == "auto" else recipe.precision
    gflops = machine.gflops if precision == machine.precision else machine.gflops / 8  # fp32 without tensor cores
    tokens = recipe.batch.tokens if isinstance(recipe.batch.tokens, int) else AUTO_TOKENS[machine.kind]
    plan = replace(
        choose_plan(recipe.model_copy(update={"precision": "fp32"})), precision=precision, device=machine.kind, tokens=tokens,
        measured_gflops={precision: gflops},
    )  # fmt: skip
    return machine, plan


def _this(plan: ExecutionPlan) -> Machine:
    free = room()
    rate = plan.measured_gflops.get(plan.precision) or choose_precision("auto", plan.device)[1][plan.precision]
    left = free.bytes / 2**20 + anonymous_mib() if free else float("inf")
    what = free.source if free else "memory that cannot be read here"
    return Machine("this", plan.device, left, 0, plan.precision, rate, f"measured; {what} leaves {left:,.0f} MiB")
