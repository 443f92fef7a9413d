"""One line before the first step: what will run, how long a step may take, and what memory it may need."""

import math

from tutelage.encode.rows import Rows
from tutelage.engine.precision import measure_gflops
from tutelage.train.budget import Need, most_tokens
from tutelage.train.loop import TrainState
from tutelage.train.memory import anonymous_mib

# Of the measured rate of one matrix product, what whole steps reached here: long rows of a wide model, short of a narrow one.
EFFICIENCY = (0.25, 0.8)
MEMORY_RANGE = (0.7, 1.3)  # around the estimate


def estimate_line(state: TrainState, need: Need | None) -> str:
    """The plan, with ranges instead of figures that nobody can know."""
    lengths = Rows.of(state.train_rows).lengths
    mean, rows = float(lengths.mean()), min(state.optim.batch_size, len(lengths))
    per_step = math.ceil(mean * rows / state.plan.tokens) if state.plan.packed else rows
    share = state.trainable.count / state.trainable.total
    quickest, slowest = seconds_per_step(state, mean * rows)
    line = (
        f"plan: {state.total_steps} steps of {state.optim.batch_size} rows ({mean:.0f} tokens each, about {per_step} "
        f"micro-batches of at most {state.plan.tokens:,} tokens), {state.plan.precision} on {state.plan.device} with "
        f"{state.plan.threads} threads, training {state.trainable.count:,} of {state.trainable.total:,} parameters "
        f"({share:.2%}); a step should take {quickest:.2g} to {slowest:.2g} s"
    )
    if state.anchored:
        line += f"; held to the base model, of which {state.anchored.bytes / 2**20:,.0f} MiB stand beside it"
    if need is None:
        return line
    low, high = peak_mib(state, need)
    return f"{line} and memory peak at {low:,.0f} to {high:,.0f} MiB"


def peak_mib(state: TrainState, need: Need) -> tuple[float, float]:
    """The range in which anonymous memory should peak: what stands now, and what training will take."""
    taken = need.of(min(state.plan.tokens, most_tokens(state))) / 2**20
    return anonymous_mib() + taken * MEMORY_RANGE[0], anonymous_mib() + taken * MEMORY_RANGE[1]


def seconds_per_step(state: TrainState, tokens: float) -> tuple[float, float]:
    """The range from this machine's measured matrix product; three products per weight that trains, two per frozen one."""
    rate = state.plan.measured_gflops.get(state.plan.precision) or measure_gflops(state.plan.dtype, state.plan.device)
    trained, total = state.trainable.count, state.trainable.total
    passes = 3 if state.anchored else 2  # the base model's forward
    work = 2 * tokens * (passes * total + trained) / (rate * 1e9)
    return work / EFFICIENCY[1], work / EFFICIENCY[0]
