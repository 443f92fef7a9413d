"""Coloured pieces: every token once, in order, with its weight and role; the rows that a reader should see."""

from collections.abc import Callable

import pytest

from tutelage.data.types import At, Conversation, Message
from tutelage.encode import preview
from tutelage.encode.contract import fit
from tutelage.encode.preview import examples, pieces
from tutelage.encode.template import Template

Templates = Callable[..., Template]


def rows(template: Template) -> list[Conversation]:
    return [
        Conversation(
            (Message("user", "Why? " * (i + 1)), Message("assistant", "Because. " * (3 - i))), At("f.jsonl", i + 1)
        )
        for i in range(3)
    ]


def test_pieces_are_the_whole_row_in_order_with_weights_and_roles(template_of: Templates) -> None:
    template = template_of()
    messages = (
        Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", "So.", weight=0.5),
        Message("user", "And?"), Message("assistant", "Then."),
    )  # fmt: skip
    (row,) = template.encode([Conversation(messages, At("f.jsonl", 1))])
    found = pieces(template, row)
    assert "".join(text for text, _, _ in found) == template.tokenizer.decode(row.ids.tolist())
    assert [[text, weight, role] for text, weight, role in found if role != "template"] == [
        ["Be brief.", 0.0, "system"], ["Why?", 0.0, "user"], ["So.", 0.5, "assistant"], ["And?", 0.0, "user"],
        ["Then.", 1.0, "assistant"],
    ]  # fmt: skip
    assert [text for text, weight, role in found if weight and role == "template"] == ["<|im_end|>", "<|im_end|>"]


def test_a_row_of_many_pieces_is_shown_in_part(template_of: Templates, monkeypatch: pytest.MonkeyPatch) -> None:
    template = template_of()
    turns = [Message("user", "a"), Message("assistant", "b")] * 4
    (row,) = template.encode([Conversation(tuple(turns), At("f.jsonl", 1))])
    whole = pieces(template, row)
    assert len(whole) > 7
    monkeypatch.setattr(preview, "MAX_PIECES", 7)
    assert pieces(template, row) == whole[:7]


def test_examples_are_the_first_the_longest_and_the_least_trained(template_of: Templates) -> None:
    template = template_of()
    encoded = template.encode(rows(template))
    shown = examples(template, encoded, first=1)
    longest = max(encoded, key=lambda row: len(row.ids))
    assert [(e["title"], e["at"]) for e in shown] == [
        ("row 1", "f.jsonl:1"), ("the longest", str(longest.at)), ("the least trained", "f.jsonl:3"),
    ]  # fmt: skip
    assert shown[0]["tokens"] == len(encoded[0].ids)
    assert shown[0]["targets"] == int((encoded[0].weights != 0).sum())
    assert examples(template, []) == []


def test_a_cut_row_is_shown(template_of: Templates) -> None:
    template = template_of()
    encoded = template.encode(rows(template))
    limit = min(len(row.ids) for row in encoded)
    cut = fit(encoded, limit, "truncate")
    assert cut.cut
    shown = {example["title"]: example for example in examples(template, cut.rows)}
    assert shown["the most truncated"]["tokens"] == limit
