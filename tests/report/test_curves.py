import re
from pathlib import Path

import pytest

from tutelage.report.curves import loss_figure, small_figures, smooth
from tutelage.report.facts import read


def test_smoothing_is_a_centred_mean_that_keeps_a_straight_line_straight() -> None:
    line = [(float(i), 2.0 * i + 1) for i in range(60)]
    means, window = smooth(line)
    assert window == 7
    assert [x for x, _ in means] == [x for x, _ in line]
    assert [y for _, y in means] == pytest.approx([y for _, y in line])
    spiked = [(float(i), 7.0 if i == 30 else 0.0) for i in range(60)]
    assert smooth(spiked)[0][30][1] == pytest.approx(1.0)


def test_a_short_run_is_not_smoothed() -> None:
    assert smooth([(float(i), 1.0) for i in range(19)]) == ([], 1)


def test_the_loss_chart_tells_its_story(finished_run: Path) -> None:
    figure = loss_figure(read(finished_run))
    assert figure is not None
    for drawn in (figure.wide, figure.narrow):
        assert drawn.count("<circle") == 4
        assert "Held-out loss: 2.315 at step 0, 1.402 at step 40, 1.093 at step 80, 1.121 at step 120." in drawn
        assert re.findall(r'class="note"[^>]*>([^<]+)', drawn) == ["2.315", "1.093", "1.121"]
        assert re.findall(r'class="mark"[^>]*>([^<]+)', drawn) == ["epoch 2", "epoch 3", "continued"]
    assert [look for look, _ in figure.legend] == ["raw", "line", "dots", "event"]


def test_the_small_charts(finished_run: Path) -> None:
    figures = small_figures(read(finished_run))
    assert [figure.title for figure in figures] == ["Learning rate", "Gradient norm", "Speed"]
    assert "Learning rate over 120 steps" in figures[0].wide


def test_nothing_is_drawn_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert loss_figure(read(tmp_path)) is None
    assert small_figures(read(tmp_path)) == []
