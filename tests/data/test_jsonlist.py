import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.jsonlist import items
from tutelage.data.jsonvalue import FaultError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text('ab \u00e9\u4f60"\\\n,]}[{', max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=12,
)


def read(data: bytes) -> list[object]:
    return list(items(io.BytesIO(data)))


@settings(deadline=None)
@given(st.lists(VALUES, max_size=12), st.sampled_from([None, 1]), st.booleans(), st.integers(1, 40))
def test_items_are_those_of_the_whole_list_whatever_the_window(
    rows: object, indent: int, raw: bool, chunk: int
) -> None:
    data = json.dumps(rows, indent=indent, ensure_ascii=raw).encode()
    assert list(items(io.BytesIO(data), chunk)) == rows


def test_a_row_may_be_longer_than_the_window() -> None:
    rows = [{"a": "x" * 3_000_000}, {"b": 12345}]
    assert read(json.dumps(rows).encode()) == rows


@pytest.mark.parametrize(
    "data, line, words",
    [
        (b'[\n{"a": 1},\n{"a": 2}\n', 4, "cut off"),
        (b'[\n{"a": 1}\n{"a": 2}]', 3, "comma"),
        (b'[{"a": 1}] x', 1, "behind the list"),
        (b'[\n{"a": 1},\n\n{"a" 2}]', 4, "line 4"),
        (b'[\n{"a": 1},\n{"a": NaN}]', 3, "no such value"),
        (b'[\n{"a": 1, "a": 2}]', 2, "one of the two"),
        (b'[\n{"a": "\xff"}]', 2, "byte 9 "),
        (b"[" * 100_000, 1, "levels"),
        (b"[1,]", 1, "column 1"),
    ],
)
def test_a_fault_has_its_line(data: bytes, line: int, words: str) -> None:
    with pytest.raises(FaultError) as caught:
        read(data)
    assert caught.value.line == line
    assert words in f"{caught.value.what} {caught.value.why} {caught.value.fix}"
