"""What a run has forgotten, measured at its end on a few shipped probes: the untouched model, then the tuned one.

Only one of them is in memory at a time, and the run is finished before: whatever happens here, its model is on disk.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage.evaluate.forgetting import Forgetting, Probed, forgetting, probe
from tutelage.evaluate.probing import Probe, Request, shipped, spread
from tutelage.evaluate.writers import CausalWriter, Writer, writer_of
from tutelage.methods.opening import locate, open_located
from tutelage.models.load import family_of
from tutelage.models.safety import read_object
from tutelage.tasks.opening import open_for_task

WRITTEN = 8  # rows of each probe that asks for an answer: 64 tokens of writing cost as much as scoring 10 rows


@dataclass(frozen=True)
class Aftermath:
    """What was forgotten, on how many probe rows of each of the two models, and the seconds that it took."""

    forgetting: Forgetting
    rows: int
    seconds: float


def few() -> dict[str, list[Probe]]:
    """The shipped probes: all that are scored in one pass, and at most `WRITTEN` evenly spread ones of the others."""
    return {
        name: spread(rows, WRITTEN) if any(isinstance(row, Request) for row in rows) else rows
        for name, rows in shipped().items()
    }


def aftermath(
    run: Path, probes: Mapping[str, Sequence[Probe]], *, precision: str, seed: int, say: Callable[[str], None]
) -> Aftermath:
    """The finished run's model beside the one it started from; both in the precision that the run was trained in."""
    begun, rows = time.monotonic(), sum(map(len, probes.values()))
    say(f"forgetting: {rows} probes of general text, knowledge, common sense and instructions, before and after")
    before = _probed(run, True, probes, None, precision, seed)
    after = _probed(run, False, probes, before, precision, seed)
    return Aftermath(forgetting(before, after, seed=seed), rows, round(time.monotonic() - begun, 1))


def _probed(
    run: Path, untouched: bool, probes: Mapping[str, Sequence[Probe]], base: Probed | None, precision: str, seed: int
) -> Probed:
    found = probe(_opened(run, untouched, precision), probes, base=base, seed=seed)
    gc.collect()  # a model is full of cycles, and the next one needs its memory
    return found


def _opened(run: Path, untouched: bool, precision: str) -> Writer:
    located = locate(str(run), base=untouched)
    if family_of(read_object(located.model / "config.json")) != "encoder-decoder":
        opened = open_located(located, precision)
        return CausalWriter(opened.model, opened.template)
    asked = open_for_task(str(run), base=untouched, precision=precision)
    writer = writer_of(asked.task, asked.backbone, asked.plan)
    assert writer is not None  # an encoder-decoder's only task is one that writes
    return writer
