"""Chat templates as Ollama templates: those that write message after message, and those that must be refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from tutelage.encode.template import Template
from tutelage.errors import ModelError
from tutelage.export.ollama import find_format, modelfile
from tutelage.models.load import load_tokenizer

PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}{% elif m['role'] == 'user' %}"
    "{{ '<|im_start|>User: ' + m['content'] + '\n' }}{% else %}{{ '<|im_start|>Bot: ' + m['content'] + '<|im_end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>Bot: ' }}{% endif %}"
)
STRIPS = PLAIN.replace("+ m['content'] +", "+ m['content'] | trim +")
FORGETS = "{% for m in messages[-1:] %}{{ '<|im_start|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
INTO_USER = (
    "{% set ns = namespace(s='') %}{% for m in messages %}{% if m['role'] == 'system' %}{% set ns.s = m['content'] + '\n' %}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + ns.s + m['content'] + '<|im_end|>\n' }}{% set ns.s = '' %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def template(model_folder: Callable[[str], Path]) -> Callable[[str | None], Template]:
    tokenizer = load_tokenizer(model_folder("llama"))
    return lambda text: Template.of(copy.deepcopy(tokenizer), eos_ids=2, text=text)


def test_chatml_with_a_system_prompt_of_its_own(template: Callable[[str | None], Template]) -> None:
    text = modelfile(template(None))
    assert 'SYSTEM """You are a small test assistant made of tiny parts."""' in text
    assert '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n' in text
    assert '{{ end }}{{ end }}<|im_start|>assistant\n"""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text


@pytest.mark.parametrize("text", [PLAIN, WORDS])
def test_templates_that_write_message_after_message(template: Callable[[str | None], Template], text: str) -> None:
    found = find_format(template(text))
    assert found.default_system is None
    assert set(found.around) == {"system", "user", "assistant"}


@pytest.mark.parametrize("text", [FORGETS, INTO_USER])
def test_templates_that_do_more_are_refused(template: Callable[[str | None], Template], text: str) -> None:
    with pytest.raises(ModelError, match="Ollama template") as caught:
        find_format(template(text))
    assert "--to gguf" in str(caught.value)
