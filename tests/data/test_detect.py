"""Detection from the rows of one file."""

import pytest

from tutelage.data.formats import FORMATS
from tutelage.data.formats.detect import detect
from tutelage.data.types import At
from tutelage.errors import DataError


def at(*rows: dict[str, object]) -> list[tuple[At, dict[str, object]]]:
    return [(At("rows.jsonl", number), row) for number, row in enumerate(rows, 1)]


@pytest.mark.parametrize("name", list(FORMATS))
def test_each_sample_is_detected(name: str) -> None:
    assert detect(at(FORMATS.get(name).sample)).name == name


def test_rows_that_lack_a_field_do_not_hide_the_format() -> None:
    assert detect(at({"prompt": "a"}, {"prompt": "a", "response": "b"})).name == "gpt4all"


def test_mixed_formats_name_the_first_row_of_each() -> None:
    alpaca = {"instruction": "a", "output": "b"}
    with pytest.raises(DataError) as caught:
        detect(at({"prompt": "a", "response": "b"}, alpaca, alpaca))
    assert "rows.jsonl:1" in str(caught.value)
    assert "rows.jsonl:2" in str(caught.value)
    assert "rows.jsonl:3" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "", []])
def test_an_empty_content_key_of_another_format_is_no_loss(value: object) -> None:
    assert detect(at({"prompt": "a", "response": "b", "system": value})).name == "gpt4all"


def test_other_keys_are_metadata() -> None:
    assert detect(at({"prompt": "a", "response": "b", "id": 3, "score": 0.5, "text": "a b"})).name == "gpt4all"


def test_no_rows() -> None:
    with pytest.raises(DataError, match="no rows"):
        detect([])
