import io
import re

import pytest

from tutelage.progress import Progress, clock
from tutelage.train.types import BudgetHalved, Drawn, Finished, Resumed, Saved, Step, Validated


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines as a terminal shows them after its carriage returns."""
        lines = []
        for raw in self.getvalue().split("\n"):
            shown = ""
            for part in raw.split("\r"):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines


def step(number: int, per_epoch: int = 10, seconds: float = 2.0) -> Step:
    return Step(number, number / per_epoch, 2.5 - number / 100, 1e-4, 0.5, 100, 300, 1234.5, seconds)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_plain_lines_come_at_each_tenth_and_at_the_end() -> None:
    file = io.StringIO()
    watch = Progress(steps=200, file=file)
    for number in range(1, 201):
        watch(step(number))
    lines = file.getvalue().splitlines()
    assert [int(re.match(r"step (\d+)/200", line)[1]) for line in lines] == [1, *range(20, 201, 20)]
    assert "\r" not in file.getvalue()
    assert "\x1b" not in file.getvalue()


def test_a_line_tells_everything() -> None:
    file = io.StringIO()
    watch = Progress(steps=100, file=file)
    watch(Validated(0, 3.25, 25.8, 0.31, 500, 20, False, 1.0))
    watch(step(10))
    first, second = file.getvalue().splitlines()
    assert "untouched model: held-out loss 3.2500" in first
    assert "31.0%" in first
    assert re.fullmatch(
        r"step 10/100  loss 2\.4000  held-out 3\.2500  lr 1\.00e-04  1,23[45] tok/s  [\d,]+ MiB  3:00 left", second
    )


@pytest.mark.parametrize(("per_epoch", "epochs", "total"), [(10, 3.0, 30), (7, 0.5, 4), (3, 1 / 3, 1), (129, 2.0, 258)])
def test_epochs_tell_the_total(per_epoch: int, epochs: float, total: int) -> None:
    watch = Progress(epochs=epochs, file=io.StringIO())
    assert watch.total(step(1, per_epoch)) == total


def test_without_an_end_it_tells_the_epoch_and_no_eta() -> None:
    file = io.StringIO()
    Progress(file=file)(step(5))
    assert file.getvalue().startswith("step 5 (epoch 0.50)  ")
    assert "left" not in file.getvalue()


def test_a_terminal_has_one_live_line_with_what_is_said_above_it() -> None:
    file = Terminal()
    watch = Progress(steps=3, file=file)
    watch(step(1))
    watch.say("note: something")
    watch(BudgetHalved(2, 512))
    watch(step(3))
    watch(Finished(3, "early_stopping"))
    lines = file.screen()
    assert lines[0] == "note: something"
    assert "512 tokens" in lines[1]
    assert lines[2].startswith("step 3/3")
    assert lines[3].startswith("stopped early after step 3")
    assert len(lines) == 5  # and the empty one behind the last line break


def test_the_live_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    file = Terminal()
    Progress(steps=100, file=file)(step(1))
    assert max(len(part) for part in file.getvalue().split("\r")) < 30


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured, plain = Terminal(), Terminal()
    Progress(file=coloured)(BudgetHalved(1, 64))
    monkeypatch.setenv("NO_COLOR", "1")
    Progress(file=plain)(BudgetHalved(1, 64))
    assert "\x1b[33m" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue()


def test_only_trouble_with_checkpoints_is_news() -> None:
    file = io.StringIO()
    watch = Progress(file=file)
    for event in (Saved(3, "checkpoints/step-3", 0.1), Finished(3, "done"), Finished(3, "interrupted")):
        watch(event)
    assert file.getvalue() == ""
    watch(Saved(4, "", 0.1, "the disk is full"))
    watch(Resumed(2, "checkpoints/step-2", ("step-3 is torn",)))
    assert file.getvalue().splitlines() == [
        "warning: step 4: no checkpoint was written: the disk is full",
        "warning: step-3 is torn",
        "continuing after step 2 from checkpoints/step-2",
    ]


def test_each_round_says_what_trains_and_steps_go_on_below_it() -> None:
    file = io.StringIO()
    watch = Progress(steps=2, file=file)
    for event in (step(1), Drawn(1, 1, 1200, {"attention": [4, 8, 64, 128], "norm": [2, 5, 8, 20]}, ("w",)), step(2)):
        watch(event)
    lines = file.getvalue().splitlines()
    assert lines[1] == "round 2: 1,200 parameters train (4 of 8 attention, 2 of 5 norm parts, and the embeddings)"
    assert [line.partition("  ")[0] for line in (lines[0], lines[2])] == ["step 1/2", "step 2/2"]


def test_durations() -> None:
    assert [clock(5), clock(65), clock(3600 * 2 + 3 * 60 + 4)] == ["0:05", "1:05", "2:03:04"]
