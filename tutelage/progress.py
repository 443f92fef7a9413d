"""A watcher of training events for people: one live line on a terminal, few plain lines elsewhere. Torch-free."""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from tutelage.train.memory import anonymous_mib
from tutelage.train.types import BudgetHalved, Drawn, Event, Finished, Resumed, Saved, Step, Validated

LIVE_SECONDS = 0.1  # how often the live line is redrawn at most
PLAIN_SECONDS = 5.0  # how often a plain line is written at most ...
PARTS = 10  # ... except at each tenth of the run


class Progress:
    """Prints events as they come. `steps`, or else `epochs`, says where the run ends; without both there is no ETA."""

    def __init__(self, steps: int | None = None, epochs: float | None = None, file: TextIO | None = None) -> None:
        self.steps, self.epochs = steps, epochs
        self.file = file if file is not None else sys.stderr
        self.live = self.file.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = self.live and not os.environ.get("NO_COLOR")
        self.validation: float | None = None
        self.drawn = -math.inf
        self.tenth = 0
        self.pending = ""  # the live line on the screen
        self.speed = 0.0  # tokens per second, smoothed
        self.pace = 0.0  # seconds per step, smoothed

    def __call__(self, event: Event) -> None:
        """Print what `event` says."""
        SHOW_EVENT[type(event)](self, event)

    def step(self, event: Step) -> None:
        """Draw the live line, or write a plain one where it is due."""
        weight = 0.1 if self.pace else 1.0
        self.speed += weight * (event.tokens_per_second - self.speed)
        self.pace += weight * (event.seconds - self.pace)
        total = self.total(event)
        now = time.monotonic()
        last = event.step == total
        tenth = event.step * PARTS // total if total else 0
        if self.live and (last or now - self.drawn >= LIVE_SECONDS):
            self.draw(self.line(event, total))
            self.drawn = now
        elif not self.live and (last or tenth > self.tenth or now - self.drawn >= PLAIN_SECONDS):
            self.say(self.line(event, total))
            self.drawn = now
        self.tenth = max(tenth, self.tenth)

    def total(self, event: Step) -> int | None:
        """All steps of the run. A step's epoch tells how many steps an epoch has."""
        if event.total_steps or self.steps is not None:
            return event.total_steps or self.steps
        return math.ceil(round(self.epochs * event.step / event.epoch, 6)) if self.epochs and event.epoch else None

    def line(self, event: Step, total: int | None) -> str:
        """One step as text."""
        parts = [f"step {event.step}/{total}" if total else f"step {event.step} (epoch {event.epoch:.2f})"]
        parts.append(f"loss {event.loss:.4f}")
        if self.validation is not None:
            parts.append(f"held-out {self.validation:.4f}")
        parts += [f"lr {event.learning_rate:.2e}", f"{self.speed:,.0f} tok/s", f"{anonymous_mib():,.0f} MiB"]
        if total and event.step < total:
            parts.append(f"{clock((total - event.step) * self.pace)} left")
        return "  ".join(parts)

    def validated(self, event: Validated) -> None:
        """Say the held-out scores."""
        self.validation = event.loss
        which = "untouched model" if event.step == 0 else f"step {event.step}"
        best = ", the best so far" if event.best else ""
        self.say(
            f"{which}: held-out loss {event.loss:.4f}, {event.accuracy:.1%} of its targets right on {event.rows} rows{best}"
        )

    def saved(self, event: Saved) -> None:
        """Say only what went wrong; a checkpoint that was written is no news."""
        if event.error:
            self.say(f"warning: step {event.step}: no checkpoint was written: {event.error}")

    def resumed(self, event: Resumed) -> None:
        """Say where the run goes on, and which checkpoints were damaged."""
        for reason in event.skipped:
            self.say(f"warning: {reason}")
        if event.step:
            self.say(f"continuing after step {event.step} from {event.path}")
        else:
            self.say("no checkpoint was written before: starting again from the untouched model")

    def budget_halved(self, event: BudgetHalved) -> None:
        """Say that memory ran out and what changed."""
        self.say(f"warning: memory ran out in step {event.step}: again with micro-batches of {event.tokens} tokens")

    def redrawn(self, event: Drawn) -> None:
        """Say which half trains."""
        parts = ", ".join(f"{some} of {all_} {category}" for category, (some, all_, *_) in event.categories.items())
        self.say(f"round {event.round + 1}: {event.parameters:,} parameters train ({parts} parts, and the embeddings)")

    def finished(self, event: Finished) -> None:
        """Leave the last line on the screen."""
        if self.pending:
            print(file=self.file, flush=True)
            self.pending = ""
        if event.reason == "early_stopping":
            self.say(f"stopped early after step {event.step}: the held-out loss no longer fell")

    def draw(self, text: str) -> None:
        """Replace the live line; text behind the right edge is cut, because a wrapped line cannot be replaced."""
        text = text[: shutil.get_terminal_size().columns - 1]
        self.file.write("\r" + text.ljust(len(self.pending)))
        self.file.flush()
        self.pending = text

    def say(self, text: str) -> None:
        """A line that stays; on a terminal it stands above the live line, and a warning is yellow."""
        blank = "\r" + " " * len(self.pending) + "\r" if self.pending else ""
        if self.colour and text.startswith("warning:"):
            text = f"\x1b[33mwarning\x1b[0m{text.removeprefix('warning')}"
        print(blank + text, file=self.file, flush=True)
        if self.pending:
            self.draw(self.pending)


SHOW_EVENT: dict[type, Callable[..., None]] = {
    Step: Progress.step, Validated: Progress.validated, Saved: Progress.saved, Resumed: Progress.resumed,
    BudgetHalved: Progress.budget_halved, Drawn: Progress.redrawn, Finished: Progress.finished,
}  # fmt: skip


def clock(seconds: float) -> str:
    """A duration as 1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
