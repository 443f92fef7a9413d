"""Drops and problems of single conversations."""

import pytest

from tutelage.data.checks import find_drop, find_problems
from tutelage.data.types import At, Conversation, Message

AT = At("f", 3)
USER, ANSWER, SYSTEM = Message("user", "q"), Message("assistant", "a"), Message("system", "s")
BLANK = Message("assistant", " \n\u00a0")
UNTRAINED = Message("assistant", "a", weight=0.0)
CALL = Message("assistant", "", tool_calls=({"id": "x", "function": {"name": "f", "arguments": {}}},))
RESULT = Message("tool", "", tool_call_id="x")


@pytest.mark.parametrize(
    "messages, reason",
    [
        ((USER, ANSWER), None),
        ((SYSTEM, ANSWER), None),
        ((ANSWER, USER, ANSWER), None),
        ((USER, ANSWER, USER), None),
        ((USER, CALL, RESULT, ANSWER), None),
        ((USER, UNTRAINED, USER, ANSWER), None),
        ((USER,), "no_answer"),
        ((SYSTEM, USER), "no_answer"),
        ((USER, BLANK), "empty_answer"),
        ((USER, BLANK, USER, ANSWER), "empty_answer"),
        ((Message("user", " "), ANSWER), "empty_prompt"),
        ((USER, ANSWER, Message("user", "\n"), ANSWER), "empty_prompt"),
        ((ANSWER,), "empty_prompt"),
        ((Message("system", ""), ANSWER), "empty_prompt"),
        ((ANSWER, USER), "empty_prompt"),
        ((USER, UNTRAINED, USER), "all_weights_zero"),
    ],
)
def test_drop(messages: tuple[Message, ...], reason: str | None) -> None:
    drop = find_drop(Conversation(messages, AT))
    assert (drop and drop.reason) == reason
    assert drop is None or (drop.at == AT and drop.detail)


@pytest.mark.parametrize(
    "messages, word",
    [
        ((SYSTEM, USER, ANSWER), None),
        ((USER, CALL, RESULT, RESULT, ANSWER), None),
        ((USER, SYSTEM, ANSWER), "not first"),
        ((SYSTEM, SYSTEM, USER, ANSWER), "second system"),
        ((RESULT, ANSWER), "no turn called"),
        ((USER, ANSWER, RESULT), "no turn called"),
        ((USER, CALL, USER, RESULT), "no turn called"),
        ((USER, CALL, Message("tool", "r", tool_call_id="y")), "not made"),
    ],
)
def test_problem(messages: tuple[Message, ...], word: str | None) -> None:
    problems = find_problems(Conversation(messages, AT))
    assert len(problems) == (word is not None)
    assert not word or (word in problems[0].what and problems[0].where == "f:3")
