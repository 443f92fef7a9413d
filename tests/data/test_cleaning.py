import pytest

from tutelage.data.cleaning import DEFAULTS, ROW_RULES, TEXT_RULES, choose
from tutelage.data.quality.view import view
from tutelage.data.types import At
from tutelage.errors import RecipeError

AT = At("a.jsonl", 1)
GERMAN = "Dies ist ein langer deutscher Satz, der sicher nicht auf Englisch geschrieben wurde, und noch einer dazu."


@pytest.mark.parametrize(
    "name, before, after",
    [
        ("repair_encoding", "It\u00e2\u20ac\u2122s", "It\u2019s"),
        ("control_characters", "a\u200bb\x07c\td\n", "abc\td\n"),
        ("whitespace", "  a \r\nb\n\n\n\nc\t\n", "a\nb\n\nc"),
        ("html", "a &lt; b <br>c", "a < b c"),
        ("mask_personal", "mail x@example.com", "mail [email]"),
        ("template_text", "Hello<|endoftext|>", "Hello"),
        (
            "template_text",
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nSay hi\n\n### Response:\n",
            "Say hi",
        ),
    ],
)
def test_text_rules(name: str, before: str, after: str) -> None:
    row, changed = choose([f"-{other}" for other in DEFAULTS] + [f"+{name}"]).clean(
        {"prompt": before, "response": "ok"}
    )
    assert (row["prompt"], changed) == (after, [name])


def test_a_text_that_is_fine_stays_the_same() -> None:
    row: dict[str, object] = {"prompt": "caf\u00e9 \u00c3 la carte\n\n- a\n  - b", "response": "x", "id": " 7 "}
    assert choose([]).clean(row) == (row, [])


def test_turns_are_cleaned_and_names_are_not() -> None:
    row = {"messages": [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "ho\r\n"}], "id": " 7 "}
    cleaned, _ = choose([]).clean(row)
    assert cleaned["messages"] == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def test_rows_that_point_into_their_texts_stay() -> None:
    row: dict[str, object] = {"context": "  a b", "question": "?", "answers": [{"text": "a", "answer_start": 2}]}
    assert choose(["+html"]).clean(row) == (row, [])


@pytest.mark.parametrize(
    "change, prompt, answer, reason",
    [
        ("drop_empty", "Hi", " ", "empty"),
        ({"drop_short": {"characters": 5}}, "Hi", "yo", "short"),
        ({"drop_long": {"characters": 5}}, "Hi", "a long one", "long"),
        ("+drop_refusals", "Hi", "As an AI language model, no", "refusals"),
        ("+drop_truncated", "Hi", "This is an answer of many words that ends in the", "truncated"),
        ("+drop_copied", "What do you want of me", "what do you want of me?", "copied"),
        ("+drop_repetition", "Hi", "eat a banana " * 50, "repetition"),
        ({"language": {"keep": ["en"]}}, "Hi", GERMAN, "language"),
    ],
)  # fmt: skip
def test_row_rules(change: object, prompt: str, answer: str, reason: str) -> None:
    row = {"prompt": prompt, "response": answer}
    dropped = choose([change]).drop(view(row, AT))  # type: ignore[list-item]
    assert dropped is not None
    assert dropped[0] == reason
    assert choose(["-drop_empty"]).drop(view(row, AT)) is None


def test_rules_are_chosen_by_name_in_a_fixed_order() -> None:
    chosen = choose(["+mask_personal", "-whitespace", {"drop_long": {"characters": 7}}]).chosen
    assert list(chosen) == [
        "repair_encoding",
        "control_characters",
        "template_text",
        "mask_personal",
        "drop_empty",
        "drop_long",
    ]
    assert chosen["drop_long"] == {"characters": 7}
    assert not set(TEXT_RULES) & set(ROW_RULES)


@pytest.mark.parametrize("change", ["whitspace", {"drop_long": {"words": 3}}, {"whitespace": {"x": 1}}])
def test_an_unknown_rule_or_option_is_refused(change: object) -> None:
    with pytest.raises(RecipeError, match=r"unknown cleaning rule|no such option"):
        choose([change])  # type: ignore[list-item]
