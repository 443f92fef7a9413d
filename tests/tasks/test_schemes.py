"""Tag schemes: entities of BIO, IOB1 and BILOU are the same, and everything becomes BIO."""

import pytest

from tutelage.errors import DataError
from tutelage.tasks.schemes import as_bio, check_scheme, scheme_of, spans

BIO = ("B-x", "I-x", "O", "B-y", "B-y", "O")
WRITTEN = {
    "BIO": BIO, "IOB1": ("I-x", "I-x", "O", "I-y", "B-y", "O"), "BILOU": ("B-x", "L-x", "O", "U-y", "U-y", "O"),
}  # fmt: skip


@pytest.mark.parametrize("scheme", WRITTEN)
def test_every_scheme_spells_the_same_entities(scheme: str) -> None:
    tags = WRITTEN[scheme]
    assert spans(tags) == [("x", 0, 2), ("y", 3, 4), ("y", 4, 5)]
    assert as_bio(tags) == BIO
    assert scheme_of([tags]) == scheme
    check_scheme(tags, scheme, "f:1")


def test_a_new_kind_begins_a_new_entity() -> None:
    assert spans(("B-x", "I-y", "I-y")) == [("x", 0, 1), ("y", 1, 3)]


def test_names_without_marks_are_classes() -> None:
    assert scheme_of([("verb", "noun", "O")]) == "none"


def test_a_tag_of_another_scheme_is_an_error_with_its_row() -> None:
    with pytest.raises(DataError, match="'U-y' is no BIO tag") as caught:
        check_scheme(WRITTEN["BILOU"][2:], "BIO", "f.conll:7")
    assert caught.value.problems[0].where == "f.conll:7"
