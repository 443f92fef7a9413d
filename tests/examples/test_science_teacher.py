"""The shipped science teacher set: its counts, its one way of answering, and that nothing held out is trained on."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from tutelage.recipe import LoraSpec, SourceSpec, read_recipe

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "science_teacher"
# One sentence a line; a point inside a number ("1.2 grams") ends no sentence.
SENTENCE = r"[A-Z0-9](?:[^.!?\n]|\d\.(?=\d))*"
ANSWER = re.compile(rf"In short: {SENTENCE}\.\nTry it: {SENTENCE}\.\nNow you: {SENTENCE}\?")
FILLER = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at by can do does for from has have how i in is it make makes of on or our some that the they "
        "to us we what when where which why with you your",
    )
)
FILES = ["train.jsonl", "heldout.jsonl"]


def pairs(name: str) -> list[tuple[str, str]]:
    result = []
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert list(row) == ["messages"]
        assert [list(message) for message in row["messages"]] == [["role", "content"]] * 2
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        result.append((row["messages"][0]["content"], row["messages"][1]["content"]))
    return result


def normalised(question: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9 ]", "", question.lower()).split())


def content_words(question: str) -> set[str]:
    return {word.removesuffix("s") for word in normalised(question).split() if word not in FILLER}


def test_counts_are_those_the_readme_gives():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in FILES:
        stated = re.search(rf"\| `{re.escape(name)}` \| (\d+) \|", readme)
        assert stated is not None
        assert len(pairs(name)) == int(stated.group(1))
    assert len(pairs("train.jsonl")) >= 320
    assert len(pairs("heldout.jsonl")) == 32


@pytest.mark.parametrize("name", FILES)
def test_every_answer_has_the_one_form(name):
    wrong = [answer for _, answer in pairs(name) if not ANSWER.fullmatch(answer)]
    assert wrong == []


@pytest.mark.parametrize("name", FILES)
def test_lengths_in_words(name):
    wrong = [
        question
        for question, answer in pairs(name)
        if not 4 <= len(question.split()) <= 12 or not 35 <= len(answer.split()) <= 50
    ]
    assert wrong == []


@pytest.mark.parametrize("name", FILES)
def test_file_is_clean_text(name):
    data = (FOLDER / name).read_bytes()
    assert data.isascii()
    assert data.endswith(b"}\n")
    assert b"\r" not in data
    assert b"\n\n" not in data
    for text in (part for pair in pairs(name) for part in pair):
        assert text == text.strip()
        assert "  " not in text
        assert all(character == "\n" or character.isprintable() for character in text)


@pytest.mark.parametrize("name", FILES)
def test_every_question_is_one_question(name):
    wrong = [q for q, _ in pairs(name) if not q[0].isupper() or not q.endswith("?") or q.count("?") != 1]
    assert wrong == []


def test_questions_and_parts_of_answers_are_unique():
    rows = [pair for name in FILES for pair in pairs(name)]
    questions = [normalised(question) for question, _ in rows]
    assert len(set(questions)) == len(questions)
    for part in range(3):
        lines = [answer.split("\n")[part] for _, answer in rows]
        assert len(set(lines)) == len(lines)


def test_no_two_questions_are_near_duplicates():
    rows = [(question, content_words(question)) for name in FILES for question, _ in pairs(name)]
    near = [
        (one, other)
        for (one, words), (other, others) in combinations(rows, 2)
        if len(words & others) >= 0.55 * len(words | others)
    ]
    assert near == []


def test_the_colour_of_the_sky_is_only_held_out():
    assert pairs("heldout.jsonl")[0][0] == "Why is the sky blue?"
    about_sky = re.compile(r"\b(sky|skies|sunset|sunsets|sunrise|scatters?|scattering)\b", re.IGNORECASE)
    wrong = [
        question
        for question, answer in pairs("train.jsonl")
        if about_sky.search(question) or about_sky.search(answer.split("\n")[0])
    ]
    assert wrong == []


def test_recipe_reads_and_names_these_files():
    recipe = read_recipe(FOLDER / "recipe.yaml")
    assert recipe.data.train == [SourceSpec(path="examples/science_teacher/train.jsonl")]
    assert recipe.data.validation == [SourceSpec(path="examples/science_teacher/heldout.jsonl")]
    assert isinstance(recipe.method, LoraSpec)
    assert recipe.out == "runs/science_teacher"
    for source in (*recipe.data.train, *recipe.data.validation):
        assert (ROOT / source.path).is_file()
    held_out = {question for question, _ in pairs("heldout.jsonl")}
    assert len(recipe.samples) == 3
    assert recipe.samples[0] == "Why is the sky blue?"
    assert set(recipe.samples) <= held_out
