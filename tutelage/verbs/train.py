"""`tutelage train`: check → run → report. Run again on the same folder to continue."""

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import InterruptedRunError, OutOfMemoryError, is_out_of_memory
from tutelage.evaluate.aftermath import aftermath, few
from tutelage.evaluate.writers import can_write
from tutelage.recipe import Recipe, read_recipe
from tutelage.report.page import write as write_report
from tutelage.runs import EVENTS, FORGETTING, MANIFEST, append_event, create, folder_bytes, locked, plain, write_json
from tutelage.train import checkpoint
from tutelage.train.budget import fit_budget
from tutelage.train.estimate import MIB, as_json, disk_of, estimate_line, memory_of, rate_of, work_of
from tutelage.train.loop import TrainState, restore, training
from tutelage.train.manifest import now, open_manifest, summary, totals, version_notes
from tutelage.train.material import Material, gather
from tutelage.train.memory import PeakMemory, anonymous_mib, give_back
from tutelage.train.outcome import answer_samples, write_model
from tutelage.train.proposals import refuse_what_cannot_fit
from tutelage.train.setup import build_state, calibrated
from tutelage.train.sketch import Sketch, fullest_rows, sketched
from tutelage.train.types import Event, Finished, Resumed, Step

Watch = Callable[[Event], None]
Say = Callable[[str], None]


def silent(text: object) -> None:
    """Watches nothing."""


def train(
    recipe: str | Path | Recipe,
    *,
    set: Sequence[str] = (),
    out: str | None = None,
    allow_changes: bool = False,
    loaded: tuple[Any, Any] | None = None,
    watch: Watch = silent,
    say: Say = silent,
) -> dict[str, Any]:
    """Fine-tune as the recipe says and return the finished run's totals; continues the run folder if it exists.

    `loaded` is a transformers (model, tokenizer) pair to train in place of what `recipe.model` names.
    """
    spec = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, tuple(set))
    folder = create(Path(out or spec.out or "runs/run"))
    with locked(folder):
        with missing_memory_said(folder), PeakMemory() as peak:
            material = gather(spec, say, loaded)
            material.contract.enforce(spec.task.allow)
            for note in notes(material):
                say(note)
            manifest = open_manifest(folder, spec, material, allow_changes)
            for note in version_notes(manifest):
                say(note)
            new = manifest["status"] != "finished"
            if new:
                fine_tune(folder, spec, material, manifest, peak, watch, say)
            else:
                say(f"{folder} is finished: nothing to do (choose another `out` to train again)")
        if new:
            write_report(folder)
        known = not new and (folder / FORGETTING).is_file()  # it was stopped in the middle of this, or before
        if spec.forgetting and can_write(material.task) and loaded is None and not known:
            gc.collect()
            measure_forgetting(folder, manifest, spec.seed, say)
            write_report(folder)
        return summary(folder, manifest)


def fine_tune(
    folder: Path, spec: Recipe, material: Material, manifest: dict[str, Any], peak: PeakMemory, watch: Watch, say: Say
) -> None:
    """Train to the end from wherever the checkpoints are, and write the model; `manifest` becomes that of a finished run."""
    plan, process = ExecutionPlan(**manifest["plan"]), anonymous_mib()
    sketch = sketched(spec, material, plan)
    if not checkpoint.steps(folder / "checkpoints"):
        refuse_what_cannot_fit(spec, material, sketch)
    calibrated(spec, material, folder, say)
    state = build_state(spec, material, plan, folder / "checkpoints")
    for note in state.backbone.notes:
        say(f"note: {note}")
    resumed = resume(state, folder)
    fit_budget(state, sketch, say)
    state.optimizer.reserve()
    manifest["plan"] = state.plan.as_json()
    write_json(folder / MANIFEST, manifest)
    if state.step == 0:
        say(expected(manifest, spec, state, sketch, material, process))
        write_json(folder / MANIFEST, manifest)
        answer_samples(folder, spec, material, state, "before")
    estimated = manifest.get("estimate", {})
    most = estimated.get("peak_mib")
    finished = run(folder, manifest, state, resumed, watch if most is None else within(most, watch), say)
    if finished.reason == "interrupted":
        raise InterruptedRunError(
            f"saved step {state.step} of {state.total_steps} and stopped", where=str(folder),
            fix="run the same command again to go on",
        )  # fmt: skip
    chosen = write_model(folder, spec, material, state, say)
    answer_samples(folder, spec, material, state, "after")
    sums = totals(state, peak.mib) | {
        f"estimated_{key}": estimated.get(key) for key in ("peak_mib", "seconds", "disk_mib")
    }
    sums["disk_mib"] = round(folder_bytes(folder) / MIB, 1)
    manifest |= {"best_step": state.best_step, "model_step": chosen, "totals": sums}
    manifest |= {"status": "finished", "reason": finished.reason, "finished": now()}
    write_json(folder / MANIFEST, manifest)


def within(most: float, watch: Watch) -> Watch:
    """`watch`, and behind each step that has taken more memory than was estimated the allocator's free part goes back."""

    def watching(event: Event) -> None:
        watch(event)
        if isinstance(event, Step):
            give_back(most)

    return watching


def expected(
    manifest: dict[str, Any], spec: Recipe, state: TrainState, sketch: Sketch, material: Material, process: float
) -> str:
    """What the run will take, in a line; the figures go into the manifest, to be compared with what was measured."""
    sketch.adopt(state.plan)
    rows = fullest_rows(sketch.state)
    walk = sketch.walk(rows)
    memory = memory_of(sketch, material, walk, process)
    work, disk = work_of(sketch.state, walk, rows), disk_of(sketch.state, spec.method)
    seconds = replace(work, validation=0.0).seconds(rate_of(state.plan))
    disk_mib = round((disk.checkpoints + disk.model + disk.calibrated) / MIB, 1)
    manifest["estimate"] = as_json(memory) | {"seconds": list(seconds), "disk_mib": disk_mib}
    return estimate_line(state, work, seconds, memory)


def measure_forgetting(folder: Path, manifest: dict[str, Any], seed: int, say: Say) -> None:
    """Write forgetting.json. The run is finished: memory that is missing here costs its probes only, and is said."""
    try:
        found = aftermath(folder, few(), precision=manifest["plan"]["precision"], seed=seed, say=say)
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        say(f"warning: memory ran out, so what was forgotten is not known yet: tutelage evaluate {folder}")
        return
    write_json(folder / FORGETTING, plain(found))


@contextmanager
def missing_memory_said(folder: Path) -> Iterator[None]:
    """Memory that ran out where no smaller micro-batch helps (loading, an update, writing the model) is a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "memory ran out", where=str(folder), why=" ".join(str(error).split())[:200],
            fix="free some memory, or choose a lighter method (half, lora, qlora) or a smaller model, and run the same "
            "command again: the last checkpoint is intact",
        ) from error  # fmt: skip


def notes(material: Material) -> Iterator[str]:
    """Sentences about the data that its owner should read before hours pass."""
    counts = material.counts
    yield f"data: {counts['train']} training rows, {counts['validation']} held out, {len(material.dropped)} dropped"
    for kind, count in material.prepared.overlap.items():
        if count:
            yield f"data: {count} rows of the given {kind} files also occur in training"
    contract = material.contract
    yield (
        f"tokens: {contract.target_tokens:,} of {contract.tokens:,} are trained, longest row {contract.longest}, "
        f"{contract.over_length} rows over the limit, {contract.truncated} cut"
    )


def resume(state: TrainState, folder: Path) -> Resumed | None:
    """Continue from the newest good checkpoint, if there is one."""
    saved, skipped = checkpoint.newest(state.store)
    if saved is None:
        return Resumed(0, "", skipped) if (folder / EVENTS).is_file() else None  # killed before its first checkpoint
    restore(state, saved)
    return Resumed(saved.step, str(saved.path), skipped)


def run(
    folder: Path, manifest: dict[str, Any], state: TrainState, resumed: Resumed | None, watch: Watch, say: Say
) -> Finished:
    """Log and show every event of the run; Ctrl-C and SIGTERM end it at the next step, saved."""
    finished = Finished(state.step, "done")
    with stopping(state, say):
        for event in training(state, resumed):
            append_event(folder, asdict(event))
            watch(event)
            if event.event == "budget_halved":
                manifest["plan"] = state.plan.as_json()
                write_json(folder / MANIFEST, manifest)
            if isinstance(event, Finished):
                finished = event
    if finished.reason == "interrupted":
        write_json(folder / MANIFEST, {**manifest, "status": "interrupted"})
    return finished


@contextmanager
def stopping(state: TrainState, say: Say) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the loop to save and stop; the second one is left to Python."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        state.stop_requested = True
        say("stopping after this step, and saving (again: stop at once)")
        for each in old:
            signal.signal(each, signal.default_int_handler)

    for number in old:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
