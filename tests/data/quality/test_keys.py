import json

import pytest

from tutelage.data.quality.keys import MOST, folded, key, words, written


@pytest.mark.parametrize(
    "one, other",
    [
        ("How do I unblock my PIN?", "how do i unblock my pin"),
        ("Can I top-up?", "Can I top up"),
        ("a  b\n c", "A, b; c!"),
        ("\uff26ull width", "full width"),
        ("caf\u00e9", "cafe\u0301"),
        ("\u201cquoted\u201d", '"quoted"'),
        ("Stra\u00dfe", "STRASSE"),
    ],
)
def test_equal_words(one: str, other: str) -> None:
    assert words(one) == words(other)


@pytest.mark.parametrize(
    "one, other",
    [("C", "C#"), ("3.5", "35"), ("1", "-1"), ("2 + 2", "2 * 2"), ("a < b", "a > b"), ("\u4f60\u597d", "\u4f60")],
)
def test_signs_with_a_meaning_stay(one: str, other: str) -> None:
    assert words(one) != words(other)


def test_scripts_without_spaces_are_cut_into_characters() -> None:
    assert words("\u4f60\u597d abc") == ["\u4f60", "\u597d", "abc"]


def test_folding_keeps_punctuation() -> None:
    assert folded(" A  b.\n") == "a b."
    assert folded("a b!") != folded("a b.")


def test_keys_are_the_same_on_every_machine() -> None:
    assert key("a", ["b"], None) == 3462329847735754606
    assert key("ab") != key("a", "b")


def test_a_text_of_millions_of_words_is_not_taken_apart_but_stays_itself() -> None:
    text = "ab " * MOST
    assert len(words(text)) < MOST
    assert words(text) == words("ab " * MOST)
    assert words(text) != words(text + "c")
    assert folded(text) != folded(text + "c")


@pytest.mark.parametrize(
    "value",
    [
        "a",
        'quote " and \\ and \n\t\x07\x7f',
        "\u2028 \ud800 \U0001f600 \u00e9",
        ("a", None, 3),
        [True, -1.5, 2**70],
        [[], ()],
        {"b": 1, "a": ["x"]},
    ],
)
def test_written_is_what_json_writes(value: object) -> None:
    assert written(value) == json.dumps(value, ensure_ascii=False, sort_keys=True)
