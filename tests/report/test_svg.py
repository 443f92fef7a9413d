import xml.etree.ElementTree as ElementTree

import pytest

from tutelage.report.svg import Chart, Mark, Series, bar, draw, round_ticks, thinned, tick_text


def chart(points: list[tuple[float, float]], **more: object) -> Chart:
    return Chart("c", "A title", "A description", "y", (Series("one", tuple(points), "line"),), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 2.3146, ["0", "0.5", "1.0", "1.5", "2.0", "2.5"]),
        (0, 2e-4, ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]),
        (0, 48000, ["0", "10k", "20k", "30k", "40k", "50k"]),
        (0.812, 0.838, ["0.810", "0.815", "0.820", "0.825", "0.830", "0.835", "0.840"]),
        (-1.1, 1.1, ["-1.5", "-1.0", "-0.5", "0", "0.5", "1.0", "1.5"]),
        (1, 1.0005, ["1.0000", "1.0001", "1.0002", "1.0003", "1.0004", "1.0005"]),
        (3_000_000, 9_000_000, ["3M", "4M", "5M", "6M", "7M", "8M", "9M"]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low: float, high: float, texts: list[str]) -> None:
    ticks = round_ticks(low, high, 5)
    assert ticks[0] <= low
    assert ticks[-1] >= high - 1e-12
    assert [tick_text(tick, ticks[1] - ticks[0]) for tick in ticks] == texts


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0, 0.0], [1.0, 1.0 + 2e-16], [5e-324, 0.0], [1e-12, 2e-12], [-3.0, -2.0], [1e299, -1e299], [9e8, 9.1e8]],
)
@pytest.mark.parametrize("zero", [True, False])
def test_any_values_stay_inside_the_picture(values: list[float], zero: bool) -> None:
    points = [(float(i), value) for i, value in enumerate(values)]
    tree = ElementTree.fromstring(draw(chart(points, zero=zero), 340, 190))
    line = next(part for part in tree if part.get("class") == "line")
    numbers = [float(n) for n in line.get("d", "").removesuffix("h.1").replace("M", "").replace("L", " ").split()]
    assert len(numbers) == 2 * len(values)
    assert all(0 <= x <= 340 for x in numbers[::2])
    assert all(0 <= y <= 190 for y in numbers[1::2])


def test_higher_values_stand_higher_and_later_steps_further_right() -> None:
    tree = ElementTree.fromstring(draw(chart([(1, 1.0), (2, 3.0)]), 340, 190))
    x1, y1, x2, y2 = (float(n) for n in tree.find("path[@class='line']").get("d")[1:].replace("L", " ").split())  # type: ignore[union-attr,index]
    assert x1 < x2
    assert y1 > y2


def test_thinning_keeps_every_spike_and_the_order() -> None:
    points = [(float(i), 1.0) for i in range(50_000)]
    points[31_337] = (31_337.0, 99.0)
    points[40_000] = (40_000.0, -7.0)
    kept = thinned(points, 600)
    assert len(kept) <= 600
    assert (31_337.0, 99.0) in kept
    assert (40_000.0, -7.0) in kept
    assert kept == sorted(kept)


def test_an_empty_chart_draws_nothing() -> None:
    assert draw(chart([]), 340, 190) == ""


def test_texts_are_escaped_and_a_reader_hears_title_and_description() -> None:
    hostile = Chart(
        "c", "<b>t", "d & <i>", "<y>", (Series("s", ((0, 1), (9, 2)), "line"),), (Mark(4, "<m>"),), (((9, 2), "<n>"),)
    )
    tree = ElementTree.fromstring(draw(hostile, 340, 190))
    assert tree.get("role") == "img"
    assert [tree[0].text, tree[1].text] == ["<b>t", "d & <i>"]
    assert tree.get("aria-labelledby", "").split() == [tree[0].get("id"), tree[1].get("id")]
    assert {"<y>", "<m>", "<n>"} <= {part.text for part in tree if part.tag == "text"}


def test_a_bar_shows_shares_and_never_leaves_its_box() -> None:
    widths = [float(part.get("width", 0)) for part in ElementTree.fromstring(bar([(0.25, "on"), (1, "off")]))]
    assert widths == [25.0, 75.0]
    assert ElementTree.fromstring(bar([(7.0, "on")]))[0].get("width") == "100"
    tiny = ElementTree.fromstring(bar([(0.00001, "on"), (1, "off")]))
    assert float(tiny[0].get("width", 0)) > 0  # a small share is not shown as none
