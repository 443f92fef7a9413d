"""Two real steps on the fullest batch of a run, in a process of their own, measured: after them, time is known and not guessed.

`python -m tutelage.train.probe` reads a recipe as JSON from its input and prints what it measured as JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.errors import CheckFailedError
from tutelage.recipe import Recipe, make_recipe
from tutelage.train.budget import fit_budget
from tutelage.train.estimate import Memory, Work
from tutelage.train.loop import one_step
from tutelage.train.material import gather
from tutelage.train.memory import PeakMemory
from tutelage.train.setup import build_state, choose_plan
from tutelage.train.sketch import fullest_step, lengths_of, sketched

STEPS = 2  # the first one makes threads and kernels, and touches the moments


@dataclass(frozen=True)
class Probed:
    """Seconds of the last step on `tokens` tokens, of which `update` went into the optimiser, those of the `first` step, and the
    peak of the process."""

    seconds: float
    first: float
    update: float
    tokens: int
    peak_mib: float

    def run_seconds(self, work: Work) -> float:
        """All steps of a run: the update costs the same in each, the rest goes by token. What the first step takes longer is added
        once: full fine-tuning of 340M parameters takes 6 s for the first step and 2 s for the others."""
        return max(0.0, self.first - self.seconds) + self._steady(work)

    def _steady(self, work: Work) -> float:
        return work.steps * self.update + (self.seconds - self.update) * work.tokens / self.tokens

    def validation_seconds(self, work: Work) -> float:
        """Held-out rows, by their share of the operations."""
        return (self._steady(work) - work.steps * self.update) * work.validation / max(work.operations, 1)

    def as_json(self, work: Work, memory: Memory) -> dict[str, Any]:
        """What was measured, and what it says of the run."""
        return {
            **asdict(self), "run_seconds": self.run_seconds(work), "validation_seconds": self.validation_seconds(work),
            "estimated_peak_mib": round(memory.peak, 1),
        }  # fmt: skip


def probe_run(recipe: Recipe, say: Callable[[str], None]) -> Probed:
    """Measure two steps of `recipe` in a child process."""
    say(f"probing: {STEPS} steps on the fullest batch")
    values = recipe.model_dump(mode="json", by_alias=True)
    if recipe.data.rows:
        values["data"]["train"] = list(recipe.data.rows)
    done = subprocess.run(
        [sys.executable, "-m", "tutelage.train.probe"],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CheckFailedError(
            "the probe did not finish", why=" ".join(done.stderr.split())[-400:] or f"exit code {done.returncode}",
            fix="leave --probe out, or let the recipe fit first: tutelage estimate RECIPE",
        )  # fmt: skip
    return Probed(**json.loads(done.stdout.splitlines()[-1]))


def measure(recipe: Recipe) -> Probed:
    """Two steps here."""
    with PeakMemory() as peak, tempfile.TemporaryDirectory(prefix="tutelage-probe-") as folder:
        material, plan = gather(recipe, _quiet), choose_plan(recipe)
        sketch = sketched(recipe, material, plan)
        state = build_state(recipe, material, plan, Path(folder) / "checkpoints")  # beside it: what calibrating makes
        fit_budget(state, sketch, _quiet)
        state.optimizer.reserve()
        fullest = fullest_step(state)
        rows = state.batches.of_step(fullest)
        taken = []
        for _ in range(STEPS):
            state.step = fullest
            start = time.perf_counter()
            list(one_step(state))
            taken.append(time.perf_counter() - start)
        for master in state.optimizer.trained:  # an update by itself: no step tells how long its own took
            master.grad = torch.zeros_like(master)
        made = time.perf_counter()
        state.optimizer.step(0.0, 0.0)
        update = time.perf_counter() - made
    tokens = int(lengths_of(state.train_rows)[rows].sum())
    return Probed(taken[-1], taken[0], update, tokens, round(peak.mib, 1))


def _quiet(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(make_recipe(json.load(sys.stdin))))))
