"""`python bench/tasks/same_steps.py --peer /work/peers/trainer/bin/python`: is a step of ours the Trainer's?

Both begin with the same weights, head included, and train on the same batch, all rows there are, twenty times in fp32 and
without dropout, so that neither order nor chance can differ. Prints the largest relative difference of a step's loss and of
its gradient's norm for each task, and ends with 1 where a loss is above 1e-4 or a norm above 2e-3. The Trainer gets the
windows of XQuAD one by one, as its loss otherwise counts the padding among the places where an answer might be.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from bench.tasks.run import ours, steps_of, theirs  # noqa: E402
from bench.tasks.sets import DATA, SETS, Set, write  # noqa: E402

ROWS, STEPS, MOST = 16, 20, (1e-4, 2e-3)


def few(one: Set, work: Path) -> Set:
    """The same with rows that bring new labels first: the batch of every step."""
    rows = [json.loads(line) for line in one.train.read_text(encoding="utf-8").splitlines()]
    known: set[str] = set()
    chosen, others = [], []
    for row in rows:
        labels = set(row.get("tags", [row.get("label", "")]))
        (others if labels <= known else chosen).append(row)
        known |= labels
    batch = (chosen + others)[: max(ROWS, len(chosen))]
    return dataclasses.replace(one, train=write(work / "batch.jsonl", batch), batch=len(batch), epochs=STEPS)


def their_steps(one: Set, out: Path, peer: str) -> list[list[float]]:
    batch, accumulate = (1, one.batch) if one.task["kind"] == "extract" else (one.batch, 1)
    more = ("--accumulate", str(accumulate), "--plain")
    found: list[list[float]] = theirs(dataclasses.replace(one, batch=batch), 0, out, peer, "fp32", None, *more)["steps"]
    return found


def our_steps(one: Set, start: Path, out: Path) -> list[list[float]]:
    ours(dataclasses.replace(one, model=str(start)), 0, out, None, "fp32")
    return [[step["loss"], step["gradient_norm"]] for step in steps_of(out)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["banking77", "wnut17", "xquad"])
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--work", default="/tmp/bench_same_steps")
    parser.add_argument("--peer", default="/work/peers/trainer/bin/python")
    given = parser.parse_args()
    apart = False
    for name in given.sets:
        work = Path(given.work) / name
        one = few(SETS[name](Path(given.data), work, None), work)
        expected = their_steps(one, work / "theirs", given.peer)
        got = our_steps(one, work / "theirs" / "start", work / "ours")
        assert len(expected) == len(got) == STEPS
        worst = [max(abs(a[k] - b[k]) / abs(b[k]) for a, b in zip(got, expected)) for k in (0, 1)]
        apart = apart or any(found > most for found, most in zip(worst, MOST))
        print(f"{name}: {one.batch} rows, loss {expected[0][0]:.4f} -> {expected[-1][0]:.4f}; largest relative difference: "
              f"loss {worst[0]:.1e}, gradient norm {worst[1]:.1e}", flush=True)  # fmt: skip
    sys.exit(apart)


if __name__ == "__main__":
    main()
