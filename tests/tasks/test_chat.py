"""Task chat: the recipe's system prompt and turns reach the tokens, and the loss is a weighted sum over targets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tutelage.data.types import At, Conversation, Message
from tutelage.encode.layout import make_layout
from tutelage.encode.rows import Rows
from tutelage.encode.template import Template
from tutelage.engine.backbone import make_backbone
from tutelage.recipe import ChatSpec
from tutelage.tasks import chat
from tutelage.tasks.chat_answers import predict
from tutelage.train.material import open_template

Folders = Callable[[str], Path]


@pytest.fixture
def template(model_folder: Folders) -> Template:
    return open_template(model_folder("llama"))


def row(*contents: str, system: str | None = None) -> Conversation:
    roles = ("user", "assistant") * len(contents)
    messages = tuple(Message(role, text) for role, text in zip(roles, contents))  # type: ignore[arg-type]
    return Conversation(((Message("system", system),) if system else ()) + messages, At("f.jsonl", 1))


def text_of(template: Template, spec: ChatSpec, conversation: Conversation) -> str:
    (encoded,) = chat.encode(template, spec, [conversation])
    return str(template.tokenizer.decode(encoded.ids.tolist()))


def test_the_recipes_system_prompt_goes_to_rows_that_have_none(template: Template) -> None:
    spec = ChatSpec(system="Answer in one word.")
    assert text_of(template, spec, row("a", "b")).startswith("<|im_start|>system\nAnswer in one word.<|im_end|>")
    own = text_of(template, spec, row("a", "b", system="Mine."))
    assert own.startswith("<|im_start|>system\nMine.<|im_end|>")
    assert "one word" not in own
    assert "test assistant" in text_of(template, ChatSpec(), row("a", "b"))  # what the template itself adds


def test_train_on_last(template: Template) -> None:
    conversation = row("a", "first", "b", "second")
    (whole,) = chat.encode(template, ChatSpec(), [conversation])
    (last,) = chat.encode(template, ChatSpec(train_on="last"), [conversation])
    assert whole.ids.tolist() == last.ids.tolist()
    assert "first" in template.tokenizer.decode(whole.ids[whole.weights > 0].tolist())
    assert template.tokenizer.decode(last.ids[last.weights > 0].tolist()) == "second<|im_end|>"


def test_a_weight_scales_the_loss_of_its_turn(template: Template, model_folder: Folders) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float64).eval()
    backbone = make_backbone(model)

    def value(first: float | None, second: float | None) -> float:
        messages = (Message("user", "a"), Message("assistant", "one two", first), Message("user", "b"))
        conversation = Conversation((*messages, Message("assistant", "three", second)), At("f.jsonl", 1))
        (encoded,) = chat.encode(template, ChatSpec(), [conversation])
        with torch.no_grad():
            result: Any = chat.loss(backbone, make_layout([Rows.all(encoded)[0]], share_prefix=False))
        return float(result.value)

    one, two = value(1.0, 0.0), value(0.0, 1.0)
    assert one > 0
    assert two > 0
    assert value(None, None) == pytest.approx(one + two, rel=1e-12)
    assert value(0.5, 2.0) == pytest.approx(0.5 * one + 2 * two, rel=1e-12)


def test_a_prediction_has_the_turns_before_its_question(template: Template, model_folder: Folders) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama")).eval()
    rows = [row("Why?", "Light.", "And then?", "Dark."), row("Why?", "Light.")]
    later, single = predict(model, template, ChatSpec(system="Be short."), rows, max_tokens=2)
    assert (later.input, later.context) == ("And then?", "system: Be short.\n\nuser: Why?\n\nassistant: Light.")
    assert (single.input, single.context) == ("Why?", "system: Be short.")
