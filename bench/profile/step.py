"""Where a training step's time and memory go: python bench/profile/step.py MODEL ROWS [--method full] [--precision bf16]

Runs the package's own steps over the rows, as `tutelage train` would: one to warm up, some timed, one under torch's
profiler, one that counts what autograd keeps. Prints

- useful tokens/s of the timed steps,
- self time by place (the autograd functions of tutelage.engine by their file, the optimiser, and the rest of the model)
  and kind of operator (matrix product, copy or cast, SDPA, other: mostly elementwise), and the slowest operators,
- memory: weights, masters and moments, gradients, what is kept for the backward by kind of module, and the peaks.
"""

import argparse
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from tutelage.recipe import Recipe, make_recipe
from tutelage.tasks.batching import packed as layouts
from tutelage.train.loop import TrainState, accumulate, one_step
from tutelage.train.material import gather
from tutelage.train.memory import anonymous_mib
from tutelage.train.setup import build_state, choose_plan

MIB = 2**20
PRODUCTS = (
    "mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "linear", "matmul", "_addmm_activation", "mkldnn_linear", "dot", "mv",
)  # fmt: skip
COPIES = (
    "copy_", "_to_copy", "clone", "contiguous", "cat", "index", "index_select", "index_copy_", "index_add_", "gather",
    "fill_", "zero_", "empty", "empty_like", "empty_strided", "zeros", "zeros_like", "new_zeros", "embedding", "slice",
    "view", "reshape", "transpose", "t", "as_strided", "select", "resize_", "expand", "repeat_interleave", "stack",
)  # fmt: skip


def recipe_of(given: argparse.Namespace) -> Recipe:
    """The recipe of the benchmarks, with what the flags say."""
    method = {"kind": "lora", "rank": 16, "alpha": 32} if given.method == "lora" else "full"
    values = {
        "model": str(given.model), "data": {"train": given.data}, "method": method, "precision": given.precision,
        "optim": {"batch_size": given.batch, "learning_rate": 2e-5}, "max_tokens": given.max_tokens,
        "over_length": "truncate", "threads": given.threads, "batch": {"tokens": given.tokens or "auto"},
    }  # fmt: skip
    return make_recipe(values)


def steps(state: TrainState, count: int) -> tuple[int, float]:
    """Useful tokens and seconds of `count` steps."""
    tokens = seconds = 0.0
    for _ in range(count):
        for event in one_step(state):
            tokens, seconds = tokens + getattr(event, "tokens", 0), seconds + getattr(event, "seconds", 0.0)
    return int(tokens), seconds


def places() -> dict[str, str]:
    """Name of an autograd function of the engine, forward and backward → its file."""
    found: dict[str, str] = {}
    for function in torch.autograd.Function.__subclasses__():
        if function.__module__.startswith("tutelage."):
            place = function.__module__.rpartition(".")[2]
            found |= {function.__name__: place, f"{function.__name__}Backward": place}
    return found


def place_of(event: Any, known: dict[str, str]) -> str:
    """Where an operator was called from: its nearest ancestor that is known."""
    at = event
    while at is not None:
        name = at.name.removeprefix("autograd::engine::evaluate_function: ").partition("#")[0]
        if name in known:
            return known[name]
        if at.name.startswith("Optimizer."):
            return "optimiser"
        at = at.cpu_parent
    return "model, by torch's autograd"


def kind_of(name: str) -> str:
    """Which kind of operator `aten::name` is."""
    short = name.removeprefix("aten::")
    if "scaled_dot_product" in short:
        return "sdpa"
    return "products" if short in PRODUCTS else "copies" if short in COPIES else "other"


def time_table(profiled: Any) -> Iterator[str]:
    """Self time by place and kind."""
    known, spent = places(), Counter[tuple[str, str]]()
    for event in profiled.events():
        if event.self_cpu_time_total > 0:
            spent[place_of(event, known), kind_of(event.name)] += event.self_cpu_time_total / 1e6
    total, kinds = sum(spent.values()), ("products", "sdpa", "copies", "other")
    yield f"{'seconds':28}" + "".join(f"{kind:>10}" for kind in (*kinds, "all")) + f"{'share':>8}"
    by_place = {place: sum(spent[place, kind] for kind in kinds) for place in {place for place, _ in spent}}
    for place, seconds in sorted(by_place.items(), key=lambda pair: -pair[1]):
        yield (
            f"{place:28}"
            + "".join(f"{spent[place, k]:10.2f}" for k in kinds)
            + f"{seconds:10.2f}{seconds / total:8.1%}"
        )
    sums = [sum(spent[place, kind] for place in by_place) for kind in kinds]
    yield f"{'all':28}" + "".join(f"{value:10.2f}" for value in sums) + f"{total:10.2f}"


class Kept:
    """Bytes that autograd keeps for the backward, by the kind of module that kept them first; no storage counts twice."""

    def __init__(self, model: Any) -> None:
        self.by_module: Counter[str] = Counter()
        self._seen: set[int] = {
            tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
        }
        self._stack = ["outside the model"]
        self._handles = [handle for module in model.modules() for handle in self._watch(module)]

    def _watch(self, module: Any) -> list[Any]:
        def enter(module: Any, given: Any) -> None:
            self._stack.append(type(module).__name__)

        def leave(module: Any, given: Any, result: Any) -> None:
            self._stack.pop()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def note(self, tensor: torch.Tensor) -> torch.Tensor:
        """Called for every tensor that is kept; the tensor itself is kept on."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.by_module[self._stack[-1]] += storage.nbytes()
        return tensor

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()


@contextmanager
def peak() -> Iterator[list[float]]:
    """The anonymous memory at the start and at its highest, in MiB, sampled every 2 ms."""
    figures, stop = [anonymous_mib(), anonymous_mib()], threading.Event()

    def sample() -> None:
        while not stop.wait(0.002):
            figures[1] = max(figures[1], anonymous_mib())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield figures
    finally:
        stop.set()
        thread.join()


def memory_table(state: TrainState) -> Iterator[str]:
    """What is held between steps, what a forward keeps, and the peaks of the parts of a step."""
    model = state.backbone.model
    held = {
        "weights": list(model.parameters()),
        "masters and moments": [t for t in state.optimizer.state().values() if t.dim() > 0],
    }
    ours = {tensor.data_ptr() for tensor in held["weights"]}
    held["masters and moments"] = [t for t in held["masters and moments"] if t.data_ptr() not in ours]
    for name, tensors in held.items():
        yield f"{name:44}{sum(t.numel() * t.element_size() for t in tensors) / MIB:10.1f} MiB"
    rows = [state.train_rows[i] for i in state.batches.of_step(state.step)]
    packs = layouts(rows, state.plan)
    largest = max(packs, key=lambda pack: len(pack.ids))
    kept = Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(kept.note, lambda tensor: tensor), peak() as forward:
        loss = state.loss_of(state.backbone, largest)
    kept.close()
    with peak() as backward:
        loss.total.backward()  # type: ignore[no-untyped-call]
    state.optimizer.zero_grad()
    yield f"kept for the backward, {len(largest.ids)} tokens (of {len(packs)} micro-batches the largest):"
    for name, size in kept.by_module.most_common(12):
        yield f"  {name:42}{size / MIB:10.1f} MiB"
    yield f"  {'all':42}{sum(kept.by_module.values()) / MIB:10.1f} MiB"
    with peak() as whole:
        accumulate(state, packs)
    with peak() as update:
        state.optimizer.step(1e-6, state.optimizer.gradient_norm())
    names = ("its forward and loss", "its backward", "all micro-batches of a step", "the update")
    for name, (start, highest) in zip(names, (forward, backward, whole, update)):
        yield f"peak of {name:36}{highest:10.1f} MiB, {highest - start:+.1f} on the start"


def main() -> None:
    """Read the flags, run the steps, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=3, help="timed steps")
    parser.add_argument("--batch", type=int, default=8, help="rows per step")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, help="the micro-batch budget; default: as planned")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--method", choices=["lora", "full"], default="lora")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--top", type=int, default=20, help="how many operators to list")
    parser.add_argument("--trace", type=Path, help="write a Chrome trace there")
    given = parser.parse_args()
    recipe = recipe_of(given)
    material = gather(recipe, print)
    with tempfile.TemporaryDirectory() as store:
        state = build_state(recipe, material, choose_plan(recipe), Path(store))
        print(f"plan: {state.plan}")
        steps(state, 1)
        tokens, seconds = steps(state, given.steps)
        print(f"\n{tokens} tokens in {seconds:.2f} s: {tokens / seconds:.0f} tokens/s\n")
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            steps(state, 1)
        print(*time_table(profiled), "", sep="\n")
        averages = profiled.key_averages()
        print(averages.table(sort_by="self_cpu_time_total", row_limit=given.top, max_name_column_width=60))
        if given.trace:
            profiled.export_chrome_trace(str(given.trace))
        print(*memory_table(state), sep="\n")


if __name__ == "__main__":
    main()
