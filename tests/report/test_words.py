import math

import pytest

from tutelage.report import words


@pytest.mark.parametrize("value", [None, "7", True, math.nan, math.inf, [], 10**400])
def test_what_is_no_finite_number_is_a_dash(value: object) -> None:
    for say in (words.count, words.score, words.percent, words.duration, words.memory, words.short):
        assert say(value) == words.DASH


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.9, "1 min 00 s"), (372.4, "6 min 12 s"), (3599.9, "1 h 00 min"),
     (7384, "2 h 03 min"), (200_000, "2 d 7 h")],
)  # fmt: skip
def test_time_spans_carry_over(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0%"),
        (1, "100%"),
        (0.454, "45.4%"),
        (0.0035, "0.35%"),
        (0.0004, "0.040%"),
        (1e-9, "under 0.001%"),
        (0.99999, "over 99.9%"),
    ],
)
def test_shares_are_never_rounded_to_none_or_all(share: float, text: str) -> None:
    assert words.percent(share) == text


def test_numbers_in_words() -> None:
    assert [words.score(n) for n in (1.0933, 10.1208, 123.456, 4567.8, 3e9)] == [
        "1.093",
        "10.12",
        "123.5",
        "4,568",
        "3.00e+09",
    ]
    assert [words.short(n) for n in (999, 999_900, 134_515_008, 1_235_814_400)] == ["999", "1M", "135M", "1.24B"]
    assert [words.memory(n) for n in (812.3, 1243.5)] == ["812 MiB", "1.2 GiB"]
    assert [words.things(n, "row") for n in (0, 1, 12345)] == ["0 rows", "1 row", "12,345 rows"]
    assert words.clock("2026-11-23T21:04:11.250000+00:00") == "2026-11-23 21:04:11"
    assert words.clipped("abcdef", 4) == ("abcd", "2 more characters are not shown")
    assert words.clipped("abcd", 4) == ("abcd", "")
