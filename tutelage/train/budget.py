"""The micro-batch budget that fits into memory. What a step holds is walked through on a sketch of the run, not guessed."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tutelage.engine.memory import Room, room
from tutelage.engine.precision import KERNELS, ExecutionPlan
from tutelage.engine.stack import Keep
from tutelage.train.loop import MIN_BUDGET, TrainState
from tutelage.train.sketch import Sketch, Walk, fullest_rows, lengths_of, longest_rows

USABLE = 0.85  # of the room: allocators leave gaps
SPARE = 64 * 2**20  # at least this is left to libraries
# Fitted to the runs in docs/estimate.md, on two cores with AMX-BF16: libraries at their first use; in bf16 also a part of
# activations and loss, for gaps and oneDNN's packed copies, and a kernel for each shape of a product.
FIRST_USE, PACKED, KERNEL = 16 * 2**20, 0.25, 3 * 2**19
RECOMPUTED = {
    "all": "", "attention": ", and a part of each layer computed twice", "input": ", and each layer computed twice",
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """Bytes that training takes beyond the weights: `fixed`, and `per_token` of a micro-batch."""

    fixed: int
    per_token: float

    def of(self, tokens: int) -> int:
        """Bytes with micro-batches of `tokens` tokens."""
        return int(self.fixed + self.per_token * tokens)


@dataclass(frozen=True)
class Fit:
    """A plan, what it needs, whether that is within the room, and the bytes that the plan before it would have taken."""

    plan: ExecutionPlan
    need: Need
    fits: bool
    wanted: int


def libraries(sketch: Sketch, walk: Walk) -> int:
    """Bytes that the libraries under a run take for themselves, less those that fit into what the allocator has free."""
    if sketch.plan.precision != "bf16" or sketch.device != "cpu":
        return FIRST_USE
    state = sketch.state
    kinds = min(state.total_steps, len(set(map(int, lengths_of(state.train_rows)))))  # steps whose shapes differ
    kernels = min(walk.products * kinds, KERNELS) * KERNEL
    taken = FIRST_USE + kernels + int(PACKED * (walk.activations + walk.loss))
    return max(taken - walk.allocator, 0)


def need_of(sketch: Sketch) -> Need:
    """From two steps of the sketch: on the longest row alone, and on the longest rows that a step can have."""
    longest = longest_rows(sketch.state)
    small, large = sketch.walk(longest[:1]), sketch.walk(longest)
    more = max(SPARE, libraries(sketch, large))
    if large.tokens == small.tokens:
        fixed = large.optimizer + large.gradients
        return Need(fixed + more, (large.beyond_weights - fixed) / large.tokens)
    per_token = (large.beyond_weights - small.beyond_weights) / (large.tokens - small.tokens)
    return Need(int(large.beyond_weights - per_token * large.tokens) + more, per_token)


def plainly_fits(sketch: Sketch, bytes_free: float) -> bool:
    """Whether not even half of `bytes_free` is needed, as the fullest step alone tells, which the first line of a run asks for
    anyway: scaled up as if all it holds grew with the longest micro-batch and the longest row. Spares two walks of 2 s each."""
    state = sketch.state
    rows = fullest_rows(state)
    walk, longest = sketch.walk(rows), int(lengths_of(state.train_rows).max())
    tokens = max(min(state.plan.tokens, most_tokens(state)), longest)
    growth = max(tokens / walk.tokens, 1.0) * longest / int(lengths_of(rows).max())
    return 2 * growth * (walk.beyond_weights + libraries(sketch, walk) + SPARE) <= bytes_free


def fitting(sketch: Sketch, bytes_free: float) -> Fit:
    """The sketch's plan where its need is at most `bytes_free`, else one that computes more twice, with a lower budget.

    The sketch adopts what is returned.
    """
    state, need = sketch.state, need_of(sketch)
    before, longest = state.plan.tokens, int(lengths_of(state.train_rows).max())
    wanted = need.of(min(before, most_tokens(state)))
    if wanted <= bytes_free:
        return Fit(sketch.plan, need, True, wanted)
    most = 0
    for keep in sorted((each for each in Keep if each <= Keep[state.plan.keep.upper()]), reverse=True):
        if keep.name.lower() != state.plan.keep:
            state.adopt(replace(state.plan, keep=keep.name.lower()))
            need = need_of(sketch)
        most = int((bytes_free - need.fixed) / max(need.per_token, 1e-9))
        if most >= longest:  # no budget makes a micro-batch shorter than the longest row
            break
    state.adopt(replace(state.plan, tokens=max(MIN_BUDGET, min(most, before))))
    return Fit(sketch.plan, need, most >= longest, wanted)


def fit_budget(state: TrainState, sketch: Sketch, say: Callable[[str], None], free: Room | None = None) -> None:
    """Lower the plan's budget to what fits into memory, aloud, and note the room in the plan.

    A plan that has its note is obeyed, unless a hard limit has come down since: then the run would only be killed.
    """
    free, first = free or room(), state.plan.room_mib is None and state.step == 0
    if free is None or state.plan.device != "cpu":
        return
    sketch.adopt(state.plan)
    if first:
        state.plan = replace(state.plan, room_mib=free.bytes // 2**20)
    there = state.optimizer.bytes()  # masters are made, and moments perhaps loaded
    usable = USABLE * free.bytes + there
    if not (first or free.hard) or plainly_fits(sketch, usable):
        return
    before, fit = state.plan, fitting(sketch, usable)
    if (fit.plan.tokens, fit.plan.keep) != (before.tokens, before.keep):
        state.adopt(replace(state.plan, tokens=fit.plan.tokens, keep=fit.plan.keep))
        say(
            f"note: micro-batches of at most {state.plan.tokens:,} tokens instead of {before.tokens:,}"
            f"{RECOMPUTED[state.plan.keep]}: {free.source} leaves {free.bytes / 2**20:,.0f} MiB, "
            f"and they would take about {(fit.wanted - there) / 2**20:,.0f}"
            + ("" if first else "; the last bits of the run may differ from one that had more")
        )


def most_tokens(state: TrainState) -> int:
    """The tokens of the fullest micro-batch that a step can have: of its longest rows together, or of the longest one."""
    lengths = sorted(map(int, lengths_of(state.train_rows)), reverse=True)
    return sum(lengths[: state.optim.batch_size]) if state.plan.packed else lengths[0]
