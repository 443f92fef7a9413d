"""Conformance of every registered format, and what each makes of its rows."""

import json
from typing import Any

import pytest

from tutelage.data.checks import find_drop, find_problems
from tutelage.data.formats import FORMATS, RowError
from tutelage.data.formats.refused import REFUSALS
from tutelage.data.types import At, Conversation, Message

AT = At("rows.jsonl", 7)


def parse(name: str, row: dict[str, object]) -> Any:
    return FORMATS.get(name).parse(row, AT)


@pytest.mark.parametrize("name", list(FORMATS))
class TestConformance:
    def test_sample_parses(self, name: str) -> None:
        made = parse(name, FORMATS.get(name).sample)
        assert made.at == AT
        assert type(made) is FORMATS.get(name).kind
        assert type(made) is not Conversation or made.messages[-1].role == "assistant"
        assert not find_problems(made)
        assert find_drop(made) is None

    def test_bad_row_names_its_line(self, name: str) -> None:
        with pytest.raises(RowError) as caught:
            parse(name, FORMATS.get(name).bad)
        for problem in caught.value.problems:
            assert problem.where == "rows.jsonl:7"
            assert problem.why or problem.fix

    def test_bad_row_is_claimed(self, name: str) -> None:
        assert FORMATS.get(name).matches(FORMATS.get(name).bad)

    def test_only_this_format_claims_the_sample(self, name: str) -> None:
        sample = FORMATS.get(name).sample
        assert [other for other in FORMATS if FORMATS.get(other).matches(sample)] == [name]
        assert not any(refusal.recognises(sample) for refusal in REFUSALS)

    def test_parsing_leaves_the_row_alone(self, name: str) -> None:
        sample = FORMATS.get(name).sample
        before = json.dumps(sample)
        parse(name, sample)
        assert json.dumps(sample) == before

    @pytest.mark.parametrize("value", [None, 3, True, "x", [], {}, [[]], [{}], [None], {"a": [1]}, ["x"]])
    def test_any_value_in_any_field_is_parsed_or_refused(self, name: str, value: object) -> None:
        form = FORMATS.get(name)
        for field in form.fields:
            error = error_of(name, {**form.sample, field: value})
            assert error is None or error.problems[0].where == "rows.jsonl:7"


def error_of(name: str, row: dict[str, object]) -> RowError | None:
    try:
        parse(name, row)
    except RowError as error:
        return error
    return None


def test_alpaca_joins_instruction_and_input() -> None:
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "system": "s", "history": [["q", "a"]]}
    assert parse("alpaca", row).messages == (
        Message("system", "s"),
        Message("user", "q"),
        Message("assistant", "a"),
        Message("user", "Add.\n\n1 and 2"),
        Message("assistant", "3"),
    )


@pytest.mark.parametrize("context", ["", "  \n", None])
def test_blank_context_adds_nothing(context: str | None) -> None:
    assert parse("dolly", {"instruction": "Add.", "context": context, "response": "3"}).messages[0].content == "Add."


def test_text_is_kept_as_written() -> None:
    row = {"prompt": " a \n\n###\n", "response": " \u00e9\u0301 b\n"}
    assert [message.content for message in parse("gpt4all", row).messages] == [" a \n\n###\n", " \u00e9\u0301 b\n"]


def test_missing_fields_are_reported_together() -> None:
    with pytest.raises(RowError) as caught:
        parse("alpaca", {"input": "x"})
    assert [problem.what for problem in caught.value.problems] == ["`instruction` is missing", "`output` is missing"]


def test_faults_of_all_turns_are_reported_together() -> None:
    turns = [{"role": "owner", "content": "a"}, {"role": "user"}, {"role": "user", "content": "a"}, 7]
    with pytest.raises(RowError) as caught:
        parse("messages", {"messages": turns})
    assert [problem.what.split("`")[1] for problem in caught.value.problems] == [
        "messages[0].role",
        "messages[1].content",
        "messages[3]",
    ]


def test_prompt_turns_are_not_trained() -> None:
    prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    messages = parse("prompt_completion", {"prompt": prompt, "completion": "d"}).messages
    assert [message.weight for message in messages] == [None, 0.0, None, None]
    assert messages[-1] == Message("assistant", "d")


def test_messages_weights_parts_and_calls() -> None:
    conversation = parse("messages", FORMATS.get("messages").sample)
    system, user, call, result, answer = conversation.messages
    assert system.role == "system"
    assert user.content == "What is the weather in Oslo?"
    assert call.content == ""
    assert call.tool_calls == (
        {"type": "function", "id": "a", "function": {"name": "weather", "arguments": {"city": "Oslo"}}},
    )
    assert result.tool_call_id == "a"
    assert answer.weight == 1.0


@pytest.mark.parametrize("key, value, weight", [("train", False, 0.0), ("loss", True, 1.0), ("weight", 0.5, 0.5)])
@pytest.mark.parametrize("name", ["messages", "sharegpt"])
def test_weight_of_a_turn(name: str, key: str, value: object, weight: float) -> None:
    rows: dict[str, dict[str, object]] = {
        "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", key: value}]},
        "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", key: value}]},
    }
    assert [message.weight for message in parse(name, rows[name]).messages] == [None, weight]


def test_sharegpt_calls_and_tools() -> None:
    conversation = parse("sharegpt", FORMATS.get("sharegpt").sample)
    assert [message.role for message in conversation.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert conversation.messages[2].tool_calls == (
        {"type": "function", "function": {"name": "multiply", "arguments": {"a": 6, "b": 7}}},
    )
    assert conversation.tools == (
        {"type": "function", "function": {"name": "multiply", "parameters": {"type": "object"}}},
    )


@pytest.mark.parametrize("tools", ["", "[]", [], None])
def test_no_tools(tools: object) -> None:
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "tools": tools}
    assert parse("sharegpt", row).tools == ()
