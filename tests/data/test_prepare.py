"""The whole way from a recipe's data part to the prepared data set."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.prepare import fingerprint, prepare
from tutelage.data.types import At
from tutelage.errors import RecipeError, TutelageError
from tutelage.recipe import DataSpec


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair(prompt: str, response: str = "answer") -> dict[str, object]:
    return {"prompt": prompt, "response": response}


def test_every_row_is_used_or_dropped(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", *(pair(f"q{n}") for n in range(40)), pair("x", " "), pair("", "y"))
    two = write(tmp_path / "b.jsonl", {"messages": [{"role": "user", "content": "q"}]})
    prepared = prepare(DataSpec(train=[one, two], validation=0.2), seed=0)
    counts = prepared.counts()
    assert counts["train"] + counts["validation"] == 40
    assert counts["test"] == 0
    assert [(drop.reason, drop.at) for drop in prepared.dropped] == [
        ("empty_answer", At(one, 41)),
        ("empty_prompt", At(one, 42)),
        ("no_answer", At(two, 1)),
    ]
    assert prepared.formats == {one: "gpt4all", two: "messages"}
    assert prepared.overlap == {}


def test_given_files_and_their_overlap(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", pair("one"), pair("two"), pair("three"))
    held = write(tmp_path / "held.csv", "")
    Path(held).write_text("prompt,response\n ONE ,Answer\nfour,answer\none,other\n")
    test = write(
        tmp_path / "test.jsonl",
        {"instruction": "two", "output": "answer"},
        pair("x") and {"instruction": "n", "output": "m"},
    )
    prepared = prepare(DataSpec(train=[train], validation=[held], test=[test]), seed=0)
    assert prepared.counts() == {"train": 3, "validation": 3, "test": 2}
    assert prepared.overlap == {"validation": 1, "test": 1}


def test_rows_in_memory_are_the_same_as_a_file(tmp_path: Path) -> None:
    rows = [pair(f"q{n}") for n in range(20)]
    path = write(tmp_path / "a.jsonl", *rows)
    from_file = prepare(DataSpec(train=[path], validation=0.3), seed=5)
    in_memory = prepare(DataSpec.model_validate({"train": rows, "validation": 0.3}), seed=5)
    assert in_memory.fingerprint == from_file.fingerprint
    assert in_memory.formats == {"<memory>": "gpt4all"}
    assert in_memory.train[0].at.source == "<memory>"


def test_given_format_overrides_detection(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {**pair("q"), "context": "left out on purpose", "completion": "c"})
    prepared = prepare(DataSpec.model_validate({"train": [{"path": path, "format": "prompt_completion"}]}), seed=0)
    assert prepared.train[0].messages[-1].content == "c"


def test_unknown_format_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError) as caught:
        prepare(DataSpec.model_validate({"train": [{"path": "a.jsonl", "format": "alpacca"}]}), seed=0)
    assert "data.train[0].format" in str(caught.value)
    assert "did you mean `alpaca`?" in str(caught.value)


def test_no_validation_rows_left(tmp_path: Path) -> None:
    train, held = write(tmp_path / "a.jsonl", pair("q")), write(tmp_path / "b.jsonl", pair("q", ""))
    with pytest.raises(TutelageError, match="no validation rows are left"):
        prepare(DataSpec(train=[train], validation=[held]), seed=0)


def test_fingerprint_follows_content_and_not_place(tmp_path: Path) -> None:
    def of(*rows: object) -> str:
        (tmp_path / "f.jsonl").unlink(missing_ok=True)
        return prepare(DataSpec(train=[write(tmp_path / "f.jsonl", *rows)]), seed=0).fingerprint

    def chat(content: str, tools: object = None, **extra: object) -> dict[str, object]:
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": content, **extra}]
        return {"messages": turns, "tools": tools}

    base = of(chat("a"), chat("b"))
    assert base == of({**chat("a"), "id": 4}, chat("b"))
    others = [
        of(chat("b"), chat("a")),
        of(chat("a")),
        of(chat("a "), chat("b")),
        of(chat("a", weight=0.5), chat("b")),
        of(chat("a", tools=[{"name": "f"}]), chat("b")),
        of(chat("a", name="n"), chat("b")),
    ]
    assert len({base, *others}) == 7
    assert len(base) == 64


def test_fingerprint_sees_the_border_of_splits(tmp_path: Path) -> None:
    rows = prepare(DataSpec(train=[write(tmp_path / "a.jsonl", pair("a"), pair("b"))]), seed=0).train
    assert fingerprint(rows, ()) != fingerprint(rows[:1], rows[1:])


KEYS = """instruction input output history system prompt response completion messages conversations tools role content
    from value weight train loss tool_calls function name arguments type text tokens tags id"""
keys = st.sampled_from(KEYS.split())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
likely_rows = st.dictionaries(keys, json_values, min_size=1, max_size=6)
turn_lists = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "x"]), "content": json_values},
        optional={"weight": json_values, "tool_calls": json_values, "train": json_values},
    ),
    max_size=4,
)
chat_rows = st.fixed_dictionaries({"messages": turn_lists}, optional={"tools": json_values})


def error_of(spec: DataSpec) -> TutelageError | None:
    """What `prepare` raises of our own; anything else goes through and fails the test."""
    try:
        prepared = prepare(spec, seed=1)
    except TutelageError as error:
        return error
    assert prepared.train
    return None


def never_raises_anything_else(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        error = error_of(DataSpec(train=[str(path)], validation=0.5))
        if error:
            assert error.problems
            assert all(problem.what and str(path) in problem.where for problem in error.problems)
            assert error.exit_code == 65


names = st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv"])


@settings(max_examples=200, deadline=None)
@given(names, st.binary(max_size=200))
def test_arbitrary_bytes(name: str, content: bytes) -> None:
    never_raises_anything_else(name, content)


@settings(max_examples=150, deadline=None)
@given(names, st.text(alphabet='{}[]",:;\t\n\r\\ua1é\ufeffpromtesn ', max_size=80))
def test_arbitrary_text(name: str, text: str) -> None:
    never_raises_anything_else(name, b"prompt,response\n" * name.endswith("csv") + text.encode())


@settings(max_examples=120, deadline=None)
@given(st.lists(likely_rows | chat_rows | json_values, max_size=4))
def test_arbitrary_json(rows: list[object]) -> None:
    never_raises_anything_else("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    never_raises_anything_else("a.json", json.dumps(rows).encode())


@settings(max_examples=100, deadline=None)
@given(st.lists(likely_rows | chat_rows, min_size=1, max_size=3))
def test_arbitrary_rows_in_memory(rows: list[dict[str, object]]) -> None:
    error = error_of(DataSpec(rows=tuple(rows)))
    assert error is None or all(problem.where.startswith("<memory>:") for problem in error.problems)
