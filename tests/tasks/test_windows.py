"""Windows over long texts: they cover everything, overlap as asked, and each token has one owner."""

import itertools

import pytest

from tutelage.tasks.windows import owner, windows


@pytest.mark.parametrize(
    "length, room, stride", [(5, 10, 3), (10, 10, 3), (11, 10, 3), (100, 17, 5), (40, 10, 0), (30, 4, 9)]
)
def test_windows_cover_the_text(length: int, room: int, stride: int) -> None:
    places = list(windows(length, room, stride))
    assert places[0][0] == 0
    assert places[-1][1] == length
    assert all(0 < stop - start <= room for start, stop in places)
    for (_, stop), (start, _) in itertools.pairwise(places):
        assert stop - start == (stride if stride < room else room - 1)
    for token in range(length):
        start, stop = places[owner(places, token)]
        assert start <= token < stop


def test_a_token_belongs_to_the_window_with_most_text_around_it() -> None:
    places = [(0, 10), (6, 16)]
    assert [owner(places, token) for token in (0, 6, 7, 8, 9, 15)] == [0, 0, 0, 1, 1, 1]
