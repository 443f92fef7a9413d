"""`tutelage estimate`: memory by part, time and disk of a run before it, from headers, the recipe and the rows' lengths."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from tutelage.models.fetch import fetch_headers
from tutelage.recipe import Recipe, read_recipe
from tutelage.train.budget import USABLE, Fit, fitting
from tutelage.train.estimate import MIB, as_json, disk_of, memory_of, work_of
from tutelage.train.imagined import imagined, missing_data
from tutelage.train.machines import machine_of
from tutelage.train.material import gather
from tutelage.train.memory import anonymous_mib
from tutelage.train.probe import probe_run
from tutelage.train.proposals import proposals
from tutelage.train.sketch import Sketch, fullest_rows, lengths_of, sketched

Say = Callable[[str], None]
PROPOSALS = 3


def estimate(
    recipe: str | Path | Recipe,
    *,
    set: Sequence[str] = (),
    machine: str | None = None,
    probe: bool = False,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """What the recipe's run will take on this machine, or on the one called `machine`; `ok` is false where it cannot fit.

    `probe` runs two steps on the fullest batch in a process of their own, on this machine, and measures them.
    """
    spec = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, tuple(set))
    dreamt = missing_data(spec)
    if dreamt:
        say(f"the data of this recipe are not here: rows of {spec.max_tokens:,} tokens are assumed")
    material = gather(imagined(spec) if dreamt else spec, say, find=fetch_headers)
    where, plan = machine_of(machine, spec)
    process = anonymous_mib()
    sketch = sketched(spec, material, plan)
    free = where.free_mib - (process if where.kind == "cpu" else 0)
    fit = fitted_plan(sketch, free)
    rows = fullest_rows(sketch.state)
    walk = sketch.walk(rows)
    memory = memory_of(sketch, material, walk, process if where.kind == "cpu" else 0.0)
    work = work_of(sketch.state, walk, rows)
    probed = probe_run(spec, say) if probe else None
    quickest, slowest = work.seconds(where.gflops)
    disk = disk_of(sketch.state, spec.method)
    return {
        "ok": fit.fits, "model": spec.model, "method": spec.method.kind, "machine": {**asdict(where), "free_mib": where.free_mib},
        "rows": {"count": len(material.train.rows), "assumed": dreamt, "longest": int(lengths_of(material.train.rows).max()),
                 "per_step": spec.optim.batch_size},
        "plan": {"precision": plan.precision, "tokens": fit.plan.tokens, "keep": fit.plan.keep, "threads": plan.threads},
        "parameters": {"trained": sketch.state.trainable.count, "total": sketch.state.trainable.total},
        "memory": as_json(memory), "steps": work.steps, "tokens": work.tokens,
        "seconds": {"low": quickest, "high": slowest},
        "disk_mib": {name: round(value / MIB, 1) for name, value in asdict(disk).items()},
        "probe": None if probed is None else probed.as_json(work, memory),
        "proposals": [] if fit.fits else [
            asdict(each) for each in islice(proposals(spec, material, plan, free * MIB), PROPOSALS)
        ],
        "notes": [*sketch.state.backbone.notes],
    }  # fmt: skip


def fitted_plan(sketch: Sketch, free_mib: float) -> Fit:
    """The plan that the run chooses in this room, beside its weights."""
    return fitting(sketch, USABLE * (free_mib * MIB - sketch.parameter_bytes))
