"""Answers that do not fit their prompts: the losses against transformers' own, the ranking, and the way to a review."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import tutelage
from tests.conftest import chat_rows
from tutelage.curate.surprise import MOST_TOKENS, Surprise, find_surprises, measure
from tutelage.data.types import At, Conversation, Message
from tutelage.methods.opening import Opened, open_model


@pytest.fixture(scope="module")
def opened(model_folder: Callable[[str], Path]) -> Opened:
    return open_model(str(model_folder("llama")), precision="fp32")


def conversations(count: int) -> list[Conversation]:
    return [
        Conversation(tuple(Message(**message) for message in row["messages"]), At("a.jsonl", i + 1))  # type: ignore[attr-defined]
        for i, row in enumerate(chat_rows(count))
    ]


def plain_loss(opened: Opened, model: Any, row: Conversation) -> float:
    """Nats per token of the last answer and its end, from the logits of transformers' `model` over the whole text."""
    texts = [
        opened.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages], tokenize=False, add_generation_prompt=prompt
        )
        for messages, prompt in ((row.messages[:-1], True), (row.messages, False))
    ]
    context, whole = (opened.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0]
    losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(whole[1:]), reduction="none")
    end = len(context) + whole[len(context) :].index(opened.tokenizer.eos_token_id)
    return float(losses[len(context) - 1 : end].mean())


def test_losses_are_those_of_the_models_own_logits(opened: Opened, model_folder: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    rows = conversations(9)
    found = list(measure(rows, opened, lambda text: None))
    assert [each.at for each in found] == [row.at for row in rows]
    for each in found:
        assert each.loss == pytest.approx(plain_loss(opened, model, each.row), abs=1e-5)
        alone = Conversation((Message("user", ""), each.row.messages[-1]), each.at)
        assert each.alone == pytest.approx(plain_loss(opened, model, alone), abs=1e-5)


def test_rows_from_a_ratio_of_one_are_ranked(opened: Opened) -> None:
    rows = conversations(40)
    every = {each.at: each.ratio for each in measure(rows, opened, lambda text: None)}
    found = find_surprises(rows, opened, lambda text: None)
    assert 0 < len(found) < len(rows)
    assert {each.at for each in found} == {at for at, ratio in every.items() if ratio >= 1}
    assert (np.diff([each.ratio for each in found]) <= 0).all()


def test_what_cannot_be_judged_is_counted(opened: Opened) -> None:
    question, answer = Message("user", "Why?"), Message("assistant", "yes")
    rows = [
        Conversation((question,), At("a", 1)),
        Conversation((question, Message("assistant", "yes " * MOST_TOKENS)), At("a", 2)),
        Conversation((question, answer), At("a", 3)),
    ]
    said: list[str] = []
    assert [each.at.row for each in measure(rows, opened, said.append)] == [3]
    assert any(text.startswith("2 conversations were not judged") for text in said)


def test_an_earlier_turn_with_a_weight_does_not_count(opened: Opened) -> None:
    (row,) = conversations(1)
    heavy = Conversation((row.messages[0], Message("assistant", "No.", weight=1.0), *row.messages[2:]), row.at)
    light = Conversation((row.messages[0], Message("assistant", "No."), *row.messages[2:]), row.at)
    one, two = (next(measure([each], opened, lambda text: None)) for each in (heavy, light))
    assert one.loss == two.loss


def test_nothing_to_be_surprised_at_is_no_division_by_zero() -> None:
    assert Surprise(conversations(1)[0], 0.0, 0.0).ratio == 1.0


def test_the_check_lists_them_and_review_shows_them(
    model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path
) -> None:
    file = chat_file(30)
    result = tutelage.data_check(str(file), labels=True, chat_model=str(model_folder("llama")), processes=1)
    issues = result["answer_issues"]
    assert result["label_issues"] == []
    assert issues
    assert all(issue["ratio"] >= 1 for issue in issues)
    (finding,) = [each for each in result["findings"] if each["kind"] == "surprising_answer"]
    assert finding["count"] == len(issues)
    (tmp_path / "checked.json").write_text(json.dumps(result, default=str), encoding="utf-8")
    listed = tmp_path / "list.csv"
    answer = tutelage.data_review(str(file), flagged=str(tmp_path / "checked.json"), to_csv=str(listed))
    assert answer["rows"] == len(issues)
    assert "surprising answer" in listed.read_text(encoding="utf-8")
