"""`python bench/tasks/same_order.py wnut17 --peer /work/peers/trainer/bin/python`: is a run of ours the Trainer's?

Both begin with the same weights, head included, and train in fp32 and without dropout on the same rows in the same order,
which is the Trainer's own for each seed. Prints both scores for each seed, and the largest relative difference of a step's
loss among the first hundred (what is rounded otherwise grows from step to step). What differs between the tools' usual runs
beside that is the order, the dropout and the precision.
"""

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
import tutelage  # noqa: E402
from bench.tasks.run import recipe_of, scored, steps_of, theirs  # noqa: E402
from bench.tasks.sets import DATA, SETS, Set  # noqa: E402
from tutelage.encode import batches  # noqa: E402
from tutelage.recipe import make_recipe  # noqa: E402

FIRST = 100


def in_order(one: Set, seed: int, order: np.ndarray, out: Path) -> list[float]:
    """Train on the rows in `order` [epochs, rows]; the loss of each step."""
    shutil.rmtree(out, ignore_errors=True)
    usual = batches._order
    batches._order = lambda rows, seed, epoch, weights: order[epoch]  # type: ignore[assignment, misc]
    try:
        tutelage.train(make_recipe(recipe_of(one, seed, out, None, "fp32")))
    finally:
        batches._order = usual  # type: ignore[misc]
    return [step["loss"] for step in steps_of(out)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=["banking77", "wnut17"])  # XQuAD's windows are the Trainer's rows
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--work", default="/tmp/bench_same_order")
    parser.add_argument("--peer", default="/work/peers/trainer/bin/python")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    for name in given.sets:
        work = Path(given.work) / name
        one = SETS[name](Path(given.data), work, None)
        for seed in given.seeds:
            peer, out = work / f"theirs-{seed}", work / f"ours-{seed}"
            expected = theirs(one, seed, peer, given.peer, "fp32", None, "--plain")
            epochs = np.reshape(expected["order"], (int(one.epochs), -1))
            losses = in_order(dataclasses.replace(one, model=str(peer / "start")), seed, epochs, out)
            apart = [abs(a - b) / abs(b) for a, (b, _) in zip(losses, expected["steps"])]
            made = {"model": str(out)}
            for side, model in (("ours", made), ("theirs", expected)):
                scored(one, model, work / f"{side}-{seed}.npy")
            print(f"{name} seed {seed}: ours {made['score']:.2f}, the Trainer {expected['score']:.2f}; "
                  f"loss of the first {FIRST} steps apart by at most {max(apart[:FIRST]):.1e}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
