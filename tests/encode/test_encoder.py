"""The fast encoder gives what `Template.encode`, the plain reference, gives, on hard texts and every template too."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, processors

from tutelage.data.types import At, Conversation, Message
from tutelage.encode.encoder import CHUNK, Encoder
from tutelage.encode.pieces import independent
from tutelage.encode.rows import Columns, pack
from tutelage.encode.template import Template
from tutelage.errors import CheckFailedError, DataError

Templates = Callable[..., Template]
Tokenizers = Callable[[str], Any]
NAMES = ["chatml", "marked", "llama3", "mistral", "gemma", "qwen3"]
HARD = [
    "", " ", "\n", "\n\n", " leading", "trailing ", "\tTab\n", "ünï e\u0301 你好 🙂👩‍👩‍👧", "\u0301combining first",
    "<|im_end|>", "<|im_", "start|>", "<|im_start|>user\nhi<|im_end|>", "[INST] x [/INST]", "</s>", "<eos>", "<think>a</think>b",
    "<think>", "</think>", "123 4567", "'s 're  x", "user\n", "assistant\n", "user", "a" * 300, "\u00a0nbsp\u3000", "\U0010fffd",
]  # fmt: skip


def talk(*turns: Message, row: int = 1, source: str = "a.jsonl") -> Conversation:
    return Conversation(turns, At(source, row))


def dialogues(texts: Sequence[str]) -> list[Conversation]:
    """Every text as a question, an answer, a second turn, and below a system prompt; with weights."""
    rows = []
    for i, text in enumerate(texts):
        other = texts[(i * 7 + 3) % len(texts)]
        user, answer = Message("user", text), Message("assistant", other)
        rows.append(talk(user, Message("assistant", "Yes."), row=4 * i + 1))
        rows.append(talk(Message("user", "Why?"), Message("assistant", text), row=4 * i + 2, source="b.jsonl"))
        rows.append(talk(user, answer, Message("user", "And?"), Message("assistant", text, 0.5), row=4 * i + 3))
        rows.append(
            talk(Message("system", text), Message("user", other), Message("assistant", "No.", 0.0), row=4 * i + 4)
        )
    return rows


def assert_same(template: Template, rows: Sequence[Conversation], train_on: str = "all") -> int:
    """Both ways agree, row by row, also in what they refuse; returns how many rows are encoded."""
    fast, count = Encoder(template, train_on), 0
    for row in rows:
        try:
            plain = pack(template.encode([row], train_on))
        except (DataError, CheckFailedError) as error:
            refused = error
        else:
            (ours,) = fast.columns([row])
            assert_equal(ours, plain)
            count += 1
            continue
        with pytest.raises(type(refused)) as caught:
            list(fast.columns([row]))
        assert [str(p) for p in caught.value.problems] == [str(p) for p in refused.problems]
    return count


def assert_equal(ours: Columns, plain: Columns) -> None:
    assert ours.names == plain.names
    for name in ("ids", "weights", "roles", "starts", "sources", "rows"):
        one, two = getattr(ours, name), getattr(plain, name)
        assert one.dtype == two.dtype
        assert one.tolist() == two.tolist(), name


@pytest.mark.parametrize("train_on", ["all", "last"])
@pytest.mark.parametrize("family", NAMES)
def test_hard_texts_are_encoded_as_the_reference_does(family: str, train_on: str, template_of: Templates) -> None:
    assert independent(template_of(family))
    assert assert_same(template_of(family), dialogues(HARD), train_on) > len(HARD)


@pytest.mark.parametrize("family", ["mistral", "gemma"])
def test_tokenizers_that_are_not_byte_level_are_encoded_whole(family: str, template_of: Templates) -> None:
    template = template_of(family, None, True)
    assert not independent(template)
    assert assert_same(template, dialogues(HARD)) > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab \n<|>_im/'1é🙂e\u0301[]INST"), max_size=12), min_size=1, max_size=4))
@pytest.mark.parametrize("family", ["chatml", "llama3", "mistral"])
def test_random_texts_agree(family: str, template_of: Templates, texts: list[str]) -> None:
    template = template_of(family)
    turns = [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate([*texts, "end"])]
    assert_same(template, [talk(*turns)])


def test_chunks_are_laid_out_in_order(template_of: Templates) -> None:
    rows = [
        talk(Message("user", f"q {i}"), Message("assistant", f"a {i} " * (i % 5)), row=i + 1) for i in range(CHUNK + 90)
    ]
    template = template_of()
    chunks = list(Encoder(template).columns(iter(rows)))
    assert [len(chunk.rows) for chunk in chunks] == [CHUNK, 90]
    for chunk, part in zip(chunks, (rows[:CHUNK], rows[CHUNK:])):
        assert_equal(chunk, pack(template.encode(part)))


def test_a_chunk_may_mix_rows_of_both_ways(template_of: Templates) -> None:
    rows = dialogues(["plain", "with <|im_end|> inside", "more"])
    template = template_of()
    (chunk,) = Encoder(template).columns(rows)
    assert_equal(chunk, pack(template.encode(rows)))


def test_problems_of_a_chunk_are_raised_together_as_by_the_reference(template_of: Templates) -> None:
    rows = [talk(Message("system", "s"), Message("user", "q"), Message("assistant", "a"), row=i) for i in range(1, 4)]
    for run in (lambda: template_of("gemma").encode(rows), lambda: list(Encoder(template_of("gemma")).columns(rows))):
        with pytest.raises(DataError) as caught:
            run()
        assert [p.where for p in caught.value.problems] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]


def test_rows_with_plain_texts_come_from_skeletons(template_of: Templates) -> None:
    """Whatever the texts are, a template is run for an order of roles, not for a row."""
    for family in ("chatml", "llama3", "mistral", "gemma", "qwen3"):
        encoder = Encoder(template_of(family))
        list(encoder.columns([talk(Message("user", f"q{i}"), Message("assistant", f"a{i}")) for i in range(9)]))
        assert list(encoder.skeletons.values()) != [None]
        assert len(encoder.skeletons) == 1


@pytest.mark.parametrize(
    "template",
    [
        "{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] | upper) + '<|im_end|>\n' }}",
        "{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] | tojson) + '<|im_end|>\n' }}",
        "{{ '<|im_start|>' + m['role'] + '\n' }}{{ (m['content'] ~ ' \n') | trim }}{{ '<|im_end|>\n' }}",
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'][:5] + '<|im_end|>\n' }}",
        "<|im_start|>{{ m['role'] + '\n' }}{% if m['content'] | length > 3 %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}",
        "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}",
        "<|im_start|>{{ m['role'] + '\n' }}{% if 'secret' not in m['content'] %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}",
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'].split('|')[0].strip() + '<|im_end|>\n' }}",
        "{{ '<|im_start|>%s\n%s<|im_end|>\n' | format(m['role'], m['content'] | trim) }}",
        "{{ ['<|im_start|>' + m['role'], m['content'].strip('*') + '<|im_end|>\n'] | join('\n') }}",
    ],
)  # fmt: skip
def test_templates_that_look_at_texts_agree_too(template: str, template_of: Templates) -> None:
    prompt = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    made = template_of("chatml", "{% for m in messages %}" + template + "{% endfor %}" + prompt)
    rows = dialogues(["x", "abc | def", "my secret word", " * starred *", "long text of words", "** a **"])
    assert assert_same(made, rows) > 6


def test_offsets_that_leave_spaces_out_agree(tokenizer_of: Tokenizers) -> None:
    """Then a token that is only a space counts to what follows it; such tokenizers are encoded whole."""
    tokenizer = tokenizer_of("mistral")
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    template = Template.of(tokenizer)
    assert not independent(template)
    assert_same(template, dialogues(HARD))


def test_a_tokenizer_that_composes_characters_agrees(tokenizer_of: Tokenizers) -> None:
    """Qwen's tokenizers normalise to NFC: a letter and the accent behind it, in another message's text, are not joined."""
    tokenizer = tokenizer_of("qwen3")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    template = Template.of(tokenizer)
    assert independent(template)
    assert_same(template, dialogues([*HARD, "e", "\u0301", "a\u0308 e\u0301", "\u1100\u1161"]))


def test_tokens_that_swallow_control_text_or_white_space_make_pieces_dependent(tokenizer_of: Tokenizers) -> None:
    for token in (AddedToken("x<|im", normalized=False), AddedToken("<|end|>", special=True, rstrip=True)):
        tokenizer = tokenizer_of("chatml")
        tokenizer.add_tokens([token], special_tokens=token.special)
        template = Template.of(tokenizer)
        assert not independent(template)
        assert_same(template, dialogues(["x", "x<|im", "<|end|> x"]))


def test_a_prompt_that_merges_with_its_answer_is_refused_as_by_the_reference(template_of: Templates) -> None:
    merging = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|im_start|>' + m['content'] + 'the' }}"
        "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    template = template_of("chatml", merging)
    rows = dialogues([" sky", "n", "re is", "light"])
    assert assert_same(template, rows) < len(rows)
