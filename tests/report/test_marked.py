"""Pieces of texts: nothing is lost, whatever is marked."""

from tutelage.report.marked import entities, in_context, kinds_of

WORDS = ["Ada", "Lovelace", "met", "Babbage", "in", "London"]
TAGS = ["B-PER", "I-PER", "O", "B-PER", "O", "B-LOC"]


def test_entities_in_words() -> None:
    kinds = kinds_of([TAGS, ["O"]])
    assert kinds == ["LOC", "PER"]
    found = entities(WORDS, TAGS, kinds)
    assert found.text.rstrip() == " ".join(WORDS)
    marked = [(piece.text, piece.look, piece.name) for piece in found.pieces if piece.look]
    assert marked == [("Ada Lovelace", "kind-1", "PER"), ("Babbage", "kind-1", "PER"), ("London", "kind-0", "LOC")]


def test_a_long_context_is_shown_around_its_answer() -> None:
    context = "a" * 500 + " the answer " + "b" * 500
    found = in_context(context, {"reference": ["the answer"], "after": ["not there", ""]}, 90)
    assert len(found.text) == 90
    assert [piece.text for piece in found.pieces if piece.look == "reference"] == ["the answer"]
    assert found.rest == f"{len(context) - 90:,} more characters are not shown"
    assert in_context("short", {}, 90).text == "short"
