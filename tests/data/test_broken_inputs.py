"""Every broken input ends in a sentence with a place and a reason or a fix, and with the right exit code."""

import gzip
import json
from pathlib import Path

import pytest

from tutelage.data.lines import MAX_LINE
from tutelage.data.prepare import prepare
from tutelage.errors import DataError, MissingInputError, TutelageError
from tutelage.recipe import DataSpec

NESTED = b'{"data": [{"paragraphs": [{"context": "a b", "qas": [{"question": "c", "answers": []}]}]}]}'
GOOD = b'{"prompt": "a", "response": "b"}\n'
LATIN = '{"prompt": "é"}\n'.encode("latin-1")


def chat(*turns: object, **extra: object) -> bytes:
    return json.dumps({"messages": list(turns), **extra}).encode() + b"\n"


def turn(role: str, content: object = "text", **extra: object) -> dict[str, object]:
    return {"role": role, "content": content, **extra}


def share(*turns: object, **extra: object) -> bytes:
    return json.dumps({"conversations": list(turns), **extra}).encode() + b"\n"


def row(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


USER, ANSWER = turn("user"), turn("assistant")
CALL = {"function": {"name": "f", "arguments": "{}"}}

# name of the file, its bytes, the row (or none: the file itself), words that the message must hold
BROKEN: dict[str, tuple[str, bytes, int | None, tuple[str, ...]]] = {
    "empty jsonl": ("a.jsonl", b"", 1, ("no rows",)),
    "blank jsonl": ("a.jsonl", b"\n \n\n", 1, ("no rows",)),
    "empty json": ("a.json", b"", 1, ("no rows",)),
    "json list without rows": ("a.json", b"[]", 1, ("no rows",)),
    "empty csv": ("a.csv", b"", 1, ("no rows",)),
    "csv with a header only": ("a.csv", b"prompt,response\n", 1, ("no rows",)),
    "only a byte order mark": ("a.jsonl", b"\xef\xbb\xbf", 1, ("no rows",)),
    "cut json line": ("a.jsonl", GOOD + b'{"prompt": "a", "resp', 2, ("not JSON", "column")),
    "single quotes": ("a.jsonl", b"{'prompt': 'a', 'response': 'b'}\n", 1, ("double quotes",)),
    "trailing comma": ("a.jsonl", b'{"prompt": "a", "response": "b",}\n', 1, ("not JSON",)),
    "two objects in a line": ("a.jsonl", GOOD.strip() * 2 + b"\n", 1, ("not JSON", "Extra data")),
    "raw control character": ("a.jsonl", b'{"prompt": "a\x01", "response": "b"}\n', 1, ("not JSON", "control")),
    "json list named jsonl": ("a.jsonl", b'[{"prompt": "a", "response": "b"}]', 1, ("JSON list", ".json")),
    "json lines named json": ("a.json", GOOD * 3, 2, ("JSON Lines", ".jsonl")),
    "broken json": ("a.json", b'[\n{"prompt": "a", "response": "b"},\n{"prompt"\n]', 4, ("not JSON", "line 4")),
    "a number for a row": ("a.jsonl", GOOD + b"\n7\n", 3, ("a number, not an object",)),
    "a text for a row": ("a.json", b'[{"prompt": "a", "response": "b"}, "x"]', 2, ("text, not an object",)),
    "empty object": ("a.jsonl", b"{}\n", 1, ("empty object",)),
    "json scalar": ("a.json", b"3", 1, ("not rows",)),
    "object without a list": ("a.json", b'{"a": 1}', 1, ("single list",)),
    "object with two lists": ("a.json", b'{"a": [], "b": []}', 1, ("2 lists", "'a'")),
    "a single row as json": ("a.json", chat(USER, ANSWER), 1, ("single row", "[ ]")),
    "utf-16 with mark": ("a.jsonl", GOOD.decode().encode("utf-16"), 1, ("UTF-16", "iconv")),
    "utf-16 without mark": ("a.jsonl", GOOD.decode().encode("utf-16-le"), 1, ("NUL", "UTF-16")),
    "utf-32": ("a.jsonl", GOOD.decode().encode("utf-32"), 1, ("UTF-32", "iconv")),
    "utf-16 csv": ("a.csv", "prompt,response\na,b\n".encode("utf-16"), 1, ("UTF-16",)),
    "latin-1": ("a.jsonl", GOOD + LATIN, 2, ("UTF-8", "0xe9", f"byte {len(GOOD) + 12} ")),
    "latin-1 in json": ("a.json", '[\n{"prompt": "é"}]'.encode("latin-1"), 2, ("UTF-8", "byte 14 ")),
    "latin-1 in csv": ("a.csv", "prompt,response\na,b\né,c\n".encode("latin-1"), 3, ("UTF-8", "byte 20 ")),
    "cut in a character": ("a.jsonl", '{"prompt": "é"}'.encode()[:13], 1, ("UTF-8", "byte 12 ")),
    "nul byte": ("a.jsonl", GOOD + b'{"prompt": "a\0"}\n', 2, ("NUL", f"byte {len(GOOD) + 13} ")),
    "nul byte in csv": ("a.csv", b"prompt,response\na,b\0\n", 2, ("NUL",)),
    "escaped nul": ("a.jsonl", row(prompt="a\0", response="b"), 1, ("NUL",)),
    "half a surrogate pair": ("a.jsonl", row(prompt="\ud800", response="b"), 1, ("U+D800",)),
    "surrogate in a key": ("a.jsonl", b'{"prompt": "a", "response": "b", "\\udc00": 1}', 1, ("U+DC00",)),
    "line too long": ("a.jsonl", GOOD + b"x" * (MAX_LINE + 1) + b"\n" + GOOD, 2, ("too long", "16,777,216")),
    "nesting beyond 64": ("a.jsonl", b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", 1, ("too deep", "64")),
    "nesting beyond the parser": ("a.jsonl", b'{"a": ' + b"[" * 200_000, 1, ("too deep",)),
    "nesting in json": ("a.json", b"[" * 200_000, 1, ("too deep",)),
    "nan": ("a.jsonl", b'{"prompt": "a", "response": "b", "x": NaN}', 1, ("NaN",)),
    "infinity": ("a.jsonl", b'{"prompt": "a", "response": "b", "x": -Infinity}', 1, ("-Infinity",)),
    "overflowing number": ("a.jsonl", b'{"prompt": "a", "response": "b", "x": 1e999}', 1, ("not finite",)),
    "endless number": ("a.jsonl", b'{"prompt": "a", "x": ' + b"9" * 5000 + b"}", 1, ("number is too long",)),
    "repeated key": ("a.jsonl", b'{"prompt": "a", "response": "b", "prompt": "c"}', 1, ("'prompt' stands twice",)),
    "repeated inner key": ("a.jsonl", b'{"messages": [{"role": "user", "role": "user"}]}', 1, ("'role' stands twice",)),
    "gzip named jsonl": ("a.jsonl", b"\x1f\x8b\x08\0rest", 1, ("gzip",)),
    "pickle named jsonl": ("a.jsonl", b"\x80\x04\x95rest", 1, ("pickle",)),
    "parquet named csv": ("a.csv", b"PAR1rest", 1, ("Parquet",)),
    "excel named csv": ("a.csv", b"PK\x03\x04rest", 1, ("Excel",)),
    "parquet": ("a.parquet", b"PAR1", 1, ("Parquet", "damaged")),
    "packed jsonl, no gzip": ("a.jsonl.gz", GOOD, 1, ("unpacked", "gzip")),
    "packed bomb": ("a.jsonl.gz", gzip.compress(b" " * 90_000_000), 2, ("which no text does",)),
    "pickle": ("a.pkl", b"\x80\x04", None, (".pkl", "run code")),
    "numpy": ("a.npy", b"\x93NUMPY", None, (".npy", "run code")),
    "conll": ("a.conll", b"I\tO\nsee\n", 2, ("no tag",)),
    "unknown extension": ("a.docx", b"x", None, (".docx", ".csv, .iob")),
    "no extension, no columns": ("rows", b"a b\nc d\n", 1, ("no columns",)),
    "no extension, a broken line": ("rows", b"a\tb\n" * 20 + b"c\n", 21, ("1 field ", "join it")),
    "ragged csv, short": ("a.csv", b"prompt,response\na,b\nc\n", 3, ("1 fields", "header 2")),
    "ragged csv, long": ("a.csv", b"prompt,response\na,b,c\n", 2, ("3 fields",)),
    "csv after a long record": ("a.csv", b'prompt,response\n"a\nb",c\nd\n', 4, ("1 fields",)),
    "open quote": ("a.csv", b'prompt,response\na,b\n"c,d\ne,f\n', 3, ("unexpected end",)),
    "text after a quote": ("a.csv", b'prompt,response\n"a"b,c\n', 2, ("cannot be read",)),
    "csv field too long": ("a.csv", b"prompt,response\na," + b"b" * 140_000 + b"\n", 2, ("field larger",)),
    "repeated column": ("a.csv", b"prompt,prompt\na,b\n", 1, ("stands twice",)),
    "nameless column": ("a.csv", b"prompt,,response\na,b,c\n", 1, ("no name", "column 2")),
    "csv without a header": ("a.csv", b"Hello there,Hi\nBye,See you\n", 2, ("no known format", "Hello there")),
    "unknown keys": ("a.jsonl", row(foo=1, bar=2), 1, ("'foo', 'bar'", "alpaca", "sharegpt")),
    "mistyped key": ("a.jsonl", row(instruction="a", input="", ouput="b"), 1, ("did you mean `output`?",)),
    "two formats": ("a.jsonl", GOOD + row(instruction="a", output="b"), 2, ("mixes", "a.jsonl:1")),
    "two formats in a row": ("a.jsonl", row(prompt="a", response="b", completion="c"), 1, ("two formats", "format:")),
    "content left out": ("a.jsonl", GOOD + row(prompt="a", response="b", context="c"), 2, ("`context`", "left out")),
    "oasst": ("a.jsonl", row(message_id="1", parent_id=None, text="a", role="prompter"), 1, ("no answer", "replied")),
    "self-instruct": ("a.jsonl", row(instruction="a", instances=[{}]), 1, ("output",)),
    "token tags": ("a.jsonl", row(tokens=["a"], ner_tags=["O"]), 1, ("CoNLL", "task: tag")),
    "squad": ("a.json", NESTED, 1, ("SQuAD", "task: extract")),
    "text and label": ("a.csv", b"text,label\na,b\n", 2, ("label",)),
    "plain text": ("a.jsonl", row(text="a"), 1, ("plain texts",)),
    "preferences": ("a.jsonl", row(prompt="a", chosen="b", rejected="c"), 1, ("rejected",)),
    "missing field": ("a.jsonl", GOOD + row(prompt="a"), 2, ("`response` is missing", "'prompt'")),
    "null answer": ("a.jsonl", row(prompt="a", response=None), 1, ("`response` must be text", "null")),
    "number for an answer": ("a.jsonl", row(prompt="a", response=4), 1, ("`response` must be text", "a number")),
    "history is no list": ("a.jsonl", row(instruction="a", output="b", history="c"), 1, ("`history`", "a list")),
    "history without pairs": ("a.jsonl", row(instruction="a", output="b", history=[["c"]]), 1, ("pair",)),
    "messages as text": ("a.jsonl", row(messages="[]"), 1, ("`messages` must be a list",)),
    "no messages": ("a.jsonl", row(messages=[]), 1, ("empty list",)),
    "a message as text": ("a.jsonl", chat("hi"), 1, ("`messages[0]` must be an object",)),
    "no role": ("a.jsonl", chat({"content": "a"}), 1, ("`messages[0].role` is missing",)),
    "foreign role": ("a.jsonl", chat(turn("human"), ANSWER), 1, ("'human'", "did you mean `user`?")),
    "role is a number": ("a.jsonl", chat({"role": 1, "content": "a"}), 1, ("no known role",)),
    "no content": ("a.jsonl", chat(USER, {"role": "assistant"}), 1, ("`messages[1].content` is missing",)),
    "null content": ("a.jsonl", chat(USER, turn("assistant", None)), 1, ("`messages[1].content`", "null")),
    "picture": ("a.jsonl", chat(turn("user", [{"type": "image_url"}]), ANSWER), 1, ("image_url", "only text")),
    "part without text": ("a.jsonl", chat(turn("user", [{"type": "text"}]), ANSWER), 1, ("content[0].text",)),
    "negative weight": ("a.jsonl", chat(USER, turn("assistant", weight=-1)), 1, ("weight", "from 0")),
    "weight as text": ("a.jsonl", chat(USER, turn("assistant", weight="1")), 1, ("weight", "text")),
    "train as number": ("a.jsonl", chat(USER, turn("assistant", train=1)), 1, ("train", "true or false")),
    "two weights": ("a.jsonl", chat(USER, turn("assistant", weight=1, loss=True)), 1, ("mean the same",)),
    "trained user": ("a.jsonl", chat(turn("user", train=True), ANSWER), 1, ("only assistant turns",)),
    "mistyped weight": ("a.jsonl", chat(USER, turn("assistant", wieght=0)), 1, ("did you mean `weight`?",)),
    "reasoning left out": ("a.jsonl", chat(USER, turn("assistant", thinking="hm")), 1, ("thinking", "left out")),
    "two systems": ("a.jsonl", chat(turn("system"), turn("developer"), USER, ANSWER), 1, ("turn 2", "second system")),
    "late system": ("a.jsonl", chat(USER, turn("system"), ANSWER), 1, ("turn 2", "not first")),
    "tool without call": ("a.jsonl", chat(USER, turn("tool"), ANSWER), 1, ("turn 2", "no turn called")),
    "wrong call id": (
        "a.jsonl",
        chat(USER, turn("assistant", None, tool_calls=[{"id": "a", **CALL}]), turn("tool", tool_call_id="b"), ANSWER),
        1,
        ("turn 3", "tool_call_id"),
    ),
    "user calls": ("a.jsonl", chat(turn("user", tool_calls=[CALL]), ANSWER), 1, ("only the assistant calls",)),
    "calls no list": ("a.jsonl", chat(USER, turn("assistant", tool_calls=3)), 1, ("tool_calls", "list of calls")),
    "call without name": ("a.jsonl", chat(USER, turn("assistant", tool_calls=[{}])), 1, ("not a call",)),
    "call with broken arguments": (
        "a.jsonl",
        chat(USER, turn("assistant", tool_calls=[{"function": {"name": "f", "arguments": "{"}}])),
        1,
        ("arguments", "not JSON"),
    ),
    "tools no list": ("a.jsonl", chat(USER, ANSWER, tools={"a": 1}), 1, ("`tools` must be a list",)),
    "tool without name": ("a.jsonl", chat(USER, ANSWER, tools=[{"type": "function"}]), 1, ("tools[0]",)),
    "unknown speaker": ("a.jsonl", share({"from": "parrot", "value": "a"}), 1, ("'parrot'", "human, user")),
    "no value": ("a.jsonl", share({"from": "human"}), 1, ("conversations[0].value` is missing",)),
    "role in sharegpt": ("a.jsonl", share(USER, ANSWER), 1, ("from` is missing", "`messages`")),
    "function call no json": ("a.jsonl", share({"from": "function_call", "value": "f(x)"}), 1, ("must be JSON",)),
    "tools no json": ("a.jsonl", share({"from": "human", "value": "a"}, tools="[{"), 1, ("`tools` must be JSON",)),
    "completion from the user": ("a.jsonl", row(prompt="a", completion=[USER]), 1, ("start with the assistant",)),
    "only blank answers": ("a.jsonl", row(prompt="a", response=" "), 1, ("no training rows", "1 with empty_answer")),
    "only blank prompts": ("a.csv", b"prompt,response\n ,a\n", 2, ("no training rows", "1 with empty_prompt")),
    "no answers": ("a.jsonl", chat(USER), 1, ("no training rows", "1 with no_answer")),
    "no weights": ("a.jsonl", chat(USER, turn("assistant", weight=0)), 1, ("1 with all_weights_zero",)),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_is_a_sentence(name: str, tmp_path: Path) -> None:
    file, content, number, words = BROKEN[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(TutelageError) as caught:
        prepare(DataSpec(train=[str(path)]), seed=0)
    message = str(caught.value)
    assert type(caught.value) is DataError
    assert caught.value.exit_code == 65
    places = [problem.where for problem in caught.value.problems]
    assert (f"{path}:{number}" if number else str(path)) in places, message
    for problem in caught.value.problems:
        assert problem.why or problem.fix, message
    for word in words:
        assert word in message, message
    assert not any(leak in message for leak in ("Traceback", "JSONDecodeError", "KeyError", "Error:", " object at 0x"))


@pytest.mark.parametrize("make", ["file", "folder", "nul", "empty"])
def test_missing_input(make: str, tmp_path: Path) -> None:
    path = {"file": str(tmp_path / "rows.json"), "folder": str(tmp_path / "no" / "rows"), "nul": "a\0b", "empty": ""}[
        make
    ]
    (tmp_path / "rows.jsonl").write_bytes(GOOD)
    with pytest.raises(MissingInputError) as caught:
        prepare(DataSpec(train=[path]), seed=0)
    assert caught.value.exit_code == 66
    assert caught.value.problems[0].fix
    assert make != "file" or "did you mean `rows.jsonl`?" in str(caught.value)


def test_all_missing_files_at_once(tmp_path: Path) -> None:
    spec = DataSpec(
        train=[str(tmp_path / "a.jsonl")], validation=[str(tmp_path / "b.jsonl")], test=[str(tmp_path / "c.json")]
    )
    with pytest.raises(MissingInputError) as caught:
        prepare(spec, seed=0)
    assert [Path(problem.where).name for problem in caught.value.problems] == ["a.jsonl", "b.jsonl", "c.json"]


def test_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("notes")
    with pytest.raises(DataError, match="no data file"):
        prepare(DataSpec(train=[str(tmp_path)]), seed=0)


def test_folder_with_unreadable_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.arrow").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"b\.arrow"):
        prepare(DataSpec(train=[str(tmp_path)]), seed=0)


def test_device_is_not_read() -> None:
    with pytest.raises(DataError, match="regular file"):
        prepare(DataSpec(train=["/dev/zero"]), seed=0)


def test_twenty_problems_and_the_total(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD + b"{\n" * 30)
    (tmp_path / "b.jsonl").write_bytes(GOOD + row(prompt="a") * 5)
    with pytest.raises(DataError) as caught:
        prepare(DataSpec(train=[str(tmp_path)]), seed=0)
    assert len(caught.value.problems) == 20
    assert caught.value.total == 35
    assert str(caught.value).endswith("... and 15 more")
