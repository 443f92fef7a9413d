"""`python bench/tasks/limit.py banking77 wnut17`: what of a training step is matrix products and AdamW.

Steps of the set's own run (bf16, the rows in their order), after some to warm up: each is timed, and every matrix product in
it noted, with the shapes and strides of its tensors. Then

- products: the same calls on tensors of the same kinds, each repeated and its fastest time taken, with all it reads in the cache
  (the median of a step's sums);
- AdamW: torch's fused kernel over as many values, also the fastest time.

Norms, activations, softmax, gathers, the gradients' move to fp32 and rounding to bf16 are not counted. Beside them: what a step
may take for four times the rows/s of the Trainer (its fastest seed in results/tasks_SET.json). Writes results/tasks_limit.json.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from bench.profile.step import steps  # noqa: E402
from bench.tasks.run import recipe_of  # noqa: E402
from bench.tasks.sets import DATA, SETS  # noqa: E402
from tutelage.recipe import make_recipe  # noqa: E402
from tutelage.train.loop import TrainState  # noqa: E402
from tutelage.train.material import gather  # noqa: E402
from tutelage.train.setup import build_state, choose_plan  # noqa: E402

RESULTS = HERE.parent / "results"
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_"}
WARM, STEPS, TIMES, BETTER = 60, 40, 5, 4


class Products(TorchDispatchMode):
    """Notes every matrix product: the operator and like arguments, made anew so that nothing of the run is held."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            self.calls.append((func, tree_map(_like, args), tree_map(_like, kwargs or {})))
        return func(*args, **(kwargs or {}))


def _like(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    places = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride()))
    return torch.randn(places).to(value.dtype).as_strided(value.shape, value.stride())


def fastest(work: Callable[[], object]) -> float:
    """Seconds: the smallest of some times, as whatever else runs on the machine can only add."""
    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def products_of(state: TrainState) -> float:
    """Seconds that the matrix products of the next step take by themselves."""
    with Products() as noted:
        steps(state, 1)
    with torch.no_grad():
        return sum(fastest(partial(func, *args, **kwargs)) for func, args, kwargs in noted.calls)


def adamw_of(state: TrainState) -> float:
    """Seconds of torch's fused AdamW over as many values as the run trains."""
    weight = torch.nn.Parameter(torch.randn(sum(master.numel() for master in state.optimizer.trained)))
    weight.grad = torch.randn_like(weight)
    adam = torch.optim.AdamW([weight], lr=1e-4, fused=True)
    adam.step()
    return fastest(adam.step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=["banking77", "wnut17"])  # where a step is one batch of short rows
    parser.add_argument("--data", default=str(DATA))
    given = parser.parse_args()
    path = RESULTS / "tasks_limit.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in given.sets:
        with tempfile.TemporaryDirectory() as work:
            one = SETS[name](Path(given.data), Path(work), None)
            recipe = make_recipe(recipe_of(one, 0, Path(work) / "run", None, "bf16"))
            material = gather(recipe, lambda *told: None)
            state = build_state(recipe, material, choose_plan(recipe), Path(work))
            steps(state, WARM)
            whole, products = zip(*((steps(state, 1)[1], products_of(state)) for _ in range(STEPS)))
            adamw = adamw_of(state)
        trainer = json.loads((RESULTS / f"tasks_{name}.json").read_text())["rows_per_second"]["trainer"]
        found[name] = {
            "step": statistics.median(whole), "products": statistics.median(products), "adamw": adamw,
            "wanted": one.batch / (BETTER * trainer), "batch": one.batch,
        }  # fmt: skip
        print(name, {key: f"{1000 * value:.1f} ms" for key, value in found[name].items() if key != "batch"}, flush=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
