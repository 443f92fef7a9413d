"""The token contract: each check passes on good rows, fails on bad ones, and names them."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tutelage.data.types import At, Conversation, Message
from tutelage.encode.contract import Check, Contract, Fitted, examine, fit
from tutelage.encode.template import Template
from tutelage.encode.types import Encoded
from tutelage.errors import MAX_PROBLEMS, CheckFailedError

Templates = Callable[..., Template]
CHECKS = [
    "end_of_turn", "has_target", "no_padding", "one_bos", "one_template", "shows_tools", "same_as_transformers", "prompt_is_prefix",
]  # fmt: skip


def row(question: str, answer: str, number: int = 1, weight: float | None = None) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer, weight)), At("rows.jsonl", number))


GOOD = [row("Why is the sky blue?", "Light scatters.", 1), row("1 2 3?", "4 5 6, and so on.", 2)]


def contract_of(template: Template, rows: list[Conversation], max_tokens: int = 500) -> Contract:
    return examine(template, rows, fit(template.encode(rows), max_tokens, "drop"))


def check(contract: Contract, name: str) -> Check:
    return next(c for c in contract.checks if c.name == name)


def fitted(*rows: Encoded) -> Fitted:
    return Fitted(rows, (), 0, 0, len(rows))


def test_good_rows_pass_every_check(template_of: Templates) -> None:
    for family in ("chatml", "llama3", "mistral", "gemma", "qwen3"):
        contract = contract_of(template_of(family), GOOD)
        assert [c.name for c in contract.checks] == CHECKS
        assert all(c.passed and (c.count or c.name == "shows_tools") for c in contract.checks)
        contract.enforce([])


def assert_only(contract: Contract, name: str, where: str = "rows.jsonl:1") -> None:
    """Only the check `name` fails; it names the row, stops the run, and can be allowed."""
    assert [c.name for c in contract.checks if not c.passed] == [name]
    failed = check(contract, name)
    assert failed.violations == len(failed.problems) == 1
    assert failed.problems[0].where == where
    with pytest.raises(CheckFailedError, match=where):
        contract.enforce([])
    contract.enforce([name])


def test_a_turn_without_a_trained_end_fails(template_of: Templates) -> None:
    unclosed = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
        "{% if m['role'] != 'assistant' %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    assert_only(contract_of(template_of("chatml", unclosed), GOOD[:1]), "end_of_turn")


def test_markers_that_leave_the_end_of_turn_out_fail(template_of: Templates) -> None:
    marked = template_of("marked").text
    outside = marked.replace("+ '<|im_end|>\n' }}{% endgeneration %}", "}}{% endgeneration %}{{ '<|im_end|>\n' }}")
    assert outside != marked
    assert_only(contract_of(template_of("marked", outside), GOOD[:1]), "end_of_turn")


def test_a_row_without_a_target_fails(template_of: Templates) -> None:
    assert_only(contract_of(template_of(), [row("a", "b", 1, weight=0.0)]), "has_target")


def test_a_target_at_the_first_token_is_none(template_of: Templates) -> None:
    """Nothing stands before the first token from which it could be predicted."""
    encoded = template_of().encode(GOOD[:1])[0]
    weights = np.zeros_like(encoded.weights)
    weights[0] = 1.0
    contract = examine(template_of(), GOOD[:1], fitted(replace(encoded, weights=weights)))
    assert not check(contract, "has_target").passed
    assert contract.target_tokens == 0


def test_trained_padding_fails_unless_padding_ends_turns(template_of: Templates) -> None:
    template = template_of()
    encoded = template.encode(GOOD[:1])[0]
    ids = encoded.ids.copy()
    ids[-4] = template.tokenizer.pad_token_id
    assert encoded.weights[-4]
    assert_only(examine(template, GOOD[:1], fitted(replace(encoded, ids=ids))), "no_padding")
    pads_with_its_end = replace(template, stop_ids=template.stop_ids | {template.tokenizer.pad_token_id})
    assert check(examine(pads_with_its_end, GOOD[:1], fitted(replace(encoded, ids=ids))), "no_padding").passed


def test_a_doubled_bos_fails(template_of: Templates) -> None:
    doubled = template_of("llama3").text.replace("{{ bos_token }}", "{{ bos_token + bos_token }}")
    assert_only(contract_of(template_of("llama3", doubled), GOOD[:1]), "one_bos")


@pytest.mark.parametrize(
    "text",
    [
        "Below is a task.\n### Instruction:\nSay hi\n### Response:\n", "<|im_start|>user\nhi<|im_end|>", "[INST] hi [/INST]",
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>", "<start_of_turn>user\nhi<end_of_turn>",
        "Human: hi\nAssistant:",
    ],
)  # fmt: skip
def test_a_template_baked_into_the_data_fails(text: str, template_of: Templates) -> None:
    assert_only(contract_of(template_of(), [row(text, "hi", 1), GOOD[1]]), "one_template")


@pytest.mark.parametrize(
    "text", ["What does [INST] mean?", "Explain <|im_start|>.", "A human: kind.", "Write ### Response: at the end."]
)
def test_mentioning_a_control_token_is_not_a_baked_template(text: str, template_of: Templates) -> None:
    assert check(contract_of(template_of(), [row(text, "hi")]), "one_template").passed


class Marking(PreTrainedTokenizerFast):
    """A tokenizer class with a rule of its own, as some models bring one."""

    def apply_chat_template(self, *arguments: Any, **options: Any) -> Any:
        result = super().apply_chat_template(*arguments, **options)
        result["input_ids"] = [*result["input_ids"], self.eos_token_id]
        return result


def test_other_ids_than_those_of_transformers_fail(template_of: Templates) -> None:
    own = template_of().tokenizer
    marking = Marking(
        tokenizer_object=own.backend_tokenizer,
        eos_token=own.eos_token,
        pad_token=own.pad_token,
        chat_template=own.chat_template,
    )
    assert_only(contract_of(Template.of(marking), GOOD[:1]), "same_as_transformers")


def test_a_template_may_use_every_special_token_of_its_tokenizer(template_of: Templates) -> None:
    tokenizer = copy.deepcopy(template_of().tokenizer)
    tokenizer.sep_token = "<|im_start|>"
    text = "{{ sep_token }}" + template_of().text
    contract = contract_of(Template.of(tokenizer, text=text), GOOD[:1])
    assert check(contract, "same_as_transformers").passed


def test_rows_with_control_text_are_not_compared_with_transformers(template_of: Templates) -> None:
    """transformers turns the text into a control token there, which is what must not happen."""
    same = check(contract_of(template_of(), [row("What is <|im_end|>?", "An end."), GOOD[1]]), "same_as_transformers")
    assert same.passed
    assert same.count == 1


def test_a_template_that_leaves_tool_calls_out_fails_and_one_with_tools_shows_them(template_of: Templates) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Bonn"}}}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    called = Conversation(
        (
            Message("user", "Rain?"), Message("assistant", "", tool_calls=(call,)), Message("tool", "no"),
            Message("assistant", "No."),
        ),
        At("rows.jsonl", 1), (tool,),
    )  # fmt: skip
    assert_only(contract_of(template_of(), [called, GOOD[1]]), "shows_tools")
    shipped = Path(__file__).parents[2] / "examples" / "templates" / "chatml_tools.jinja"
    template = template_of("chatml", shipped.read_text(encoding="utf-8"))
    assert all(c.passed for c in contract_of(template, [called, *GOOD]).checks)
    (encoded,) = template.encode([called])
    trained = template.tokenizer.decode(encoded.ids[encoded.weights != 0].tolist())
    assert trained == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bonn"}}\n</tool_call><|im_end|>No.<|im_end|>'
    )


def test_all_violations_are_counted_and_the_first_are_shown(template_of: Templates) -> None:
    contract = contract_of(template_of(), [row("[INST] a [/INST]", "b", i, weight=0.0) for i in range(1, 31)])
    with pytest.raises(CheckFailedError, match="and 40 more") as caught:
        contract.enforce([])
    assert caught.value.total == 60
    assert len(caught.value.problems) == MAX_PROBLEMS
    document = contract.as_json()
    assert {c["name"]: c["violations"] for c in document["checks"] if not c["passed"]} == {
        "has_target": 30,
        "one_template": 30,
    }


def test_counts_are_those_of_the_rows(template_of: Templates) -> None:
    template = template_of()
    encoded = template.encode(GOOD)
    contract = contract_of(template, GOOD)
    assert contract.rows == 2
    assert contract.tokens == sum(len(item.ids) for item in encoded)
    assert contract.target_tokens == sum(int((item.weights != 0).sum()) for item in encoded)
    assert contract.longest == max(len(item.ids) for item in encoded)
    assert sum(contract.roles.values()) == contract.tokens
    assert contract.added_by_template == "<|im_start|>user\n"


# The length limit


def test_longer_rows_are_dropped_and_listed(template_of: Templates) -> None:
    encoded = template_of().encode(GOOD[::-1])
    limit = len(encoded[0].ids)
    assert len(encoded[1].ids) < limit
    same = fit(encoded, limit, "drop")
    assert (len(same.rows), same.over_length, same.cut, same.dropped) == (2, 0, 0, ())
    fewer = fit(encoded, limit - 1, "drop")
    assert [item.at.row for item in fewer.rows] == [1]
    assert [(d.reason, d.at.row) for d in fewer.dropped] == [("over_length", 2)]
    assert fewer.dropped[0].detail == f"{limit} tokens, max_tokens is {limit - 1}"
    assert (fewer.over_length, fewer.cut, fewer.encoded) == (1, 0, 2)


def test_truncation_keeps_the_front_and_drops_rows_without_a_target(template_of: Templates) -> None:
    template = template_of()
    encoded = template.encode(GOOD)
    first = int(np.flatnonzero(encoded[0].weights)[0])
    kept = fit(encoded[:1], first + 1, "truncate")
    assert kept.rows[0].cut
    assert kept.rows[0].ids.tolist() == encoded[0].ids[: first + 1].tolist()
    assert (kept.over_length, kept.cut) == (1, 1)
    contract = examine(template, GOOD[:1], kept)
    assert check(contract, "end_of_turn").passed  # a cut turn has lost its end: counted as such, not a violation
    assert contract.truncated == 1
    gone = fit(encoded[:1], first, "truncate")
    assert len(gone.rows) == 0
    assert [d.reason for d in gone.dropped] == ["no_target_after_cut"]
