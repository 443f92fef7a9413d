import pytest

from tutelage.data.quality import faults
from tutelage.data.quality.keys import words

LONG = "This is an answer of many words that goes on for a while "


@pytest.mark.parametrize("text", ["It\u00e2\u20ac\u2122s fine", "caf\u00c3\u00a9", "lost \ufffd here"])
def test_broken_characters(text: str) -> None:
    assert faults.encoding_fault(text)


@pytest.mark.parametrize(
    "text", ["caf\u00e9 \u00c3 la carte", "\u00c5ngstr\u00f6m", "na\u00efve \u00e0 \u00b0", "\u4f60\u597d", "plain"]
)
def test_right_characters(text: str) -> None:
    assert faults.encoding_fault(text) is None


def test_invisible_characters() -> None:
    assert "U+200B" in str(faults.control_character("a\u200bb"))
    assert "U+202E" in str(faults.control_character("a\u202eb"))
    assert faults.control_character("tab\t, line\n, return\r") is None


@pytest.mark.parametrize(
    "text, found", [("a &lt;b", True), ("<p>x</p>", True), ("a < b and c > d", False), ("AT&T; ok", False)]
)
def test_markup(text: str, found: bool) -> None:
    assert bool(faults.markup(text)) == found


@pytest.mark.parametrize(
    "text",
    [
        "### Instruction:\nDo it",
        "<|im_start|>user\nHi<|im_end|>",
        "Hello<|endoftext|>",
        "[INST] Hi [/INST]",
        "USER: hi",
        "</s>",
        "<start_of_turn>user",
        "<<SYS>> Be kind",
        "##Response:",
        "Below is an instruction that describes a task",
        *(f"Hi\n{who}: hello" for who in ("ASSISTANT", "Human", "Assistant", "Bot")),
    ],
)
def test_template_text(text: str) -> None:
    assert faults.template_text(text)


@pytest.mark.parametrize("text", ["## Response times", "the assistant: said", "<s1> and <b>", "An instruction: do it"])
def test_no_template_text(text: str) -> None:
    assert faults.template_text(text) is None


@pytest.mark.parametrize(
    "text", ["I'm sorry, but I can't do that.", "As an AI language model, I", "I cannot help with that"]
)
def test_refusals(text: str) -> None:
    assert faults.refusal(text)


@pytest.mark.parametrize(
    "text", ["I cannot recommend this film enough", "Sorry is the hardest word", "AI models refuse"]
)
def test_no_refusals(text: str) -> None:
    assert faults.refusal(text) is None


def test_truncation() -> None:
    assert faults.truncated(LONG + "and then the")
    assert faults.truncated(LONG + "apples, pears,")
    assert faults.truncated(LONG + "until it ends") is None
    assert faults.truncated("Short of the") is None


def test_copied_prompts() -> None:
    prompt = ["why", "is", "the", "sky", "blue", "today"]
    assert faults.copied_prompt(prompt, prompt) == "the answer is the prompt"
    assert faults.copied_prompt(prompt, [*prompt, "because"])
    assert faults.copied_prompt(prompt, ["because", *prompt]) is None
    assert faults.copied_prompt(["yes"], ["yes"]) is None


def test_loops() -> None:
    assert "1,999 times" in str(faults.repetition(words("Eat a banana!" * 2000)))
    assert faults.repetition([f"w{i}" for i in range(200)]) is None
    listing = [word for i in range(12) for word in ("the", "song", f"number{i}", f"of{i}", f"year{i}")]
    assert faults.repetition(listing) is None
