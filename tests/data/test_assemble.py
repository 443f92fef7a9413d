"""`data prepare` as a whole: what goes where, that it is the same twice, and that recipes train from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage.data.decisions import Decision, row_key, write_decisions
from tutelage.data.folder import opened
from tutelage.data.prepare import prepare
from tutelage.errors import ChangedRunError, DataError, MissingInputError, OutputError
from tutelage.recipe import make_recipe, read_recipe

Rows = list[dict[str, Any]]
Prepare = Callable[..., dict[str, Any]]


def pairs(count: int, start: int = 0) -> Rows:
    return [
        {"prompt": f"Question number {i}: what is {i} times {i + 3}?", "response": f"Result {i} is {i * (i + 3)}."}
        for i in range(start, start + count)
    ]


def write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(folder: Path, name: str) -> Rows:
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


@pytest.fixture
def run(tmp_path: Path) -> Prepare:
    """A function from rows and data keys to the verb's result; the folder is `tmp_path/out`."""

    def prepared(rows: Rows, *, name: str = "out", processes: int = 1, **data: Any) -> dict[str, Any]:
        write(tmp_path / "rows.jsonl", rows)
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(json.dumps({"data": {"train": [str(tmp_path / "rows.jsonl")], **data}}), encoding="utf-8")
        return tutelage.data_prepare(str(recipe), out=str(tmp_path / name), processes=processes)

    return prepared


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "report.html"}


def test_every_row_is_kept_or_listed(run: Prepare, tmp_path: Path) -> None:
    rows = [
        *pairs(50), pairs(1)[0], {"prompt": "QUESTION number 1; what is 1 times 4", "response": "result 1 is 4."},
        {"prompt": "Empty", "response": " "}, {"prompt": "Null", "response": None}, {"prompt": " A \r\n", "response": "B"},
    ]  # fmt: skip
    result = run(rows, validation=0.2)
    out = tmp_path / "out"
    kept = read(out, "train") + read(out, "validation")
    dropped = read(out, "dropped")
    assert len(kept) + len(dropped) == len(rows)
    assert [(row["row"], row["reason"]) for row in dropped] == [
        (51, "exact_duplicate"), (52, "exact_duplicate"), (53, "empty"), (54, "wrong_format"),
    ]  # fmt: skip
    assert dropped[0]["detail"] == f"like {tmp_path}/rows.jsonl:1"
    assert result["dropped"] == {"empty": 1, "exact_duplicate": 2, "wrong_format": 1}
    (change,) = read(out, "changed")
    assert (change["row"], change["rules"], change["fields"]) == (55, ["whitespace"], {"prompt": [" A \r\n", "A"]})
    assert {row["_at"] for row in kept} == {f"{tmp_path}/rows.jsonl:{i}" for i in [*range(1, 51), 55]}


def test_twice_gives_the_same_bytes_whatever_the_processes(run: Prepare, tmp_path: Path) -> None:
    rows = [*pairs(2500), *pairs(40, 100)]
    one = run(rows, validation=0.1, processes=1)
    first = bytes_of(tmp_path / "out")
    two = run(rows, validation=0.1, processes=2)
    assert bytes_of(tmp_path / "out") == first
    assert one["fingerprint"] == two["fingerprint"]


def test_adding_rows_moves_no_other(run: Prepare, tmp_path: Path) -> None:
    run(pairs(300), validation=0.2, test=0.1)
    before = {part: {row["prompt"] for row in read(tmp_path / "out", part)} for part in ("train", "validation", "test")}
    run(pairs(400), validation=0.2, test=0.1)
    after = {part: {row["prompt"] for row in read(tmp_path / "out", part)} for part in before}
    assert all(before[part] < after[part] for part in before)
    assert 40 < len(after["validation"]) < 120
    assert 15 < len(after["test"]) < 70


def test_near_duplicates_and_equal_prompts_stay_on_one_side(run: Prepare, tmp_path: Path) -> None:
    rows: Rows = []
    for i in range(120):
        words = " ".join(f"w{i}x{j}" for j in range(40))
        rows += [
            {"prompt": f"p {i}", "response": words, "n": i},
            {"prompt": f"p {i}", "response": f"{words} more", "n": i},
        ]
    run(rows, validation=0.3, dedupe={"near": 0.8, "exact": False, "keep": "first"}, decisions=None)
    assert len(read(tmp_path / "out", "train")) + len(read(tmp_path / "out", "validation")) == 120
    run(rows, validation=0.3, dedupe={"near": None})
    sides = [{row["n"] for row in read(tmp_path / "out", part)} for part in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[1]) > 15


def test_the_longest_answer_of_near_duplicates_is_kept(run: Prepare, tmp_path: Path) -> None:
    words = " ".join(f"w{j}" for j in range(40))
    rows = [*pairs(5), {"prompt": "same", "response": words}, {"prompt": "same", "response": f"{words} and more"}]
    run(rows)
    assert read(tmp_path / "out", "train")[-1]["response"].endswith("more")
    assert read(tmp_path / "out", "dropped")[0]["detail"] == f"like {tmp_path}/rows.jsonl:7"


def test_groups_never_straddle(run: Prepare, tmp_path: Path) -> None:
    rows = [{**row, "user": f"u{i % 30}"} for i, row in enumerate(pairs(300))]
    run(rows, validation=0.3, split={"group": "user"})
    sides = [{row["user"] for row in read(tmp_path / "out", part)} for part in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert sides[1]


def test_the_latest_rows_are_held_out(run: Prepare, tmp_path: Path) -> None:
    rows = [{**row, "day": f"2024-01-{1 + i * 7 % 28:02}"} for i, row in enumerate(pairs(280))]
    run(rows, validation=0.2, test=0.1, split={"time": "day"})
    days = {part: [row["day"] for row in read(tmp_path / "out", part)] for part in ("train", "validation", "test")}
    assert max(days["train"]) <= min(days["validation"])
    assert max(days["validation"]) <= min(days["test"])
    assert (len(days["validation"]), len(days["test"])) == (56, 28)


def test_a_stratified_split_has_every_label(run: Prepare, tmp_path: Path) -> None:
    rows = [{"text": f"text {i} about {i * 37}", "label": "rare" if i % 20 == 0 else "usual"} for i in range(400)]
    run(rows, validation=0.1, split={"stratify": True})
    labels = [row["label"] for row in read(tmp_path / "out", "validation")]
    assert (labels.count("rare"), labels.count("usual")) == (2, 38)


def test_what_held_out_files_have_is_taken_out_of_training(run: Prepare, tmp_path: Path) -> None:
    held = write(
        tmp_path / "held.jsonl", [{"prompt": pairs(1, 7)[0]["prompt"].upper(), "response": "?"}, *pairs(3, 900)]
    )
    result = run(pairs(50), test=[held])
    assert result["dropped"] == {"leak": 1}
    assert result["counts"] == {"train": 49, "validation": 0, "test": 4}
    assert run(pairs(50), test=[held], leak="report")["counts"]["train"] == 50


def test_equal_inputs_with_different_labels_can_be_dropped(run: Prepare) -> None:
    rows: Rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)] + [{"text": "TEXT 3.", "label": "a"}]
    assert run(rows)["counts"]["train"] == 21
    assert run(rows, dedupe={"contradictions": "drop"})["dropped"] == {"contradiction": 2}


def test_weights_repeat_rows(run: Prepare, tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", pairs(200, 1000))
    result = run(
        pairs(100), train=[{"path": str(tmp_path / "rows.jsonl"), "weight": 2}, {"path": other, "weight": 0.5}]
    )
    assert 270 < result["counts"]["train"] < 330


def test_shards_give_what_one_file_gives(run: Prepare, tmp_path: Path) -> None:
    rows = [*pairs(600), *pairs(60, 50), *({**row, "response": f"{row['response']} Yes."} for row in pairs(40, 300))]
    (tmp_path / "shards").mkdir()
    for shard in range(3):
        write(tmp_path / "shards" / f"{shard}.jsonl", rows[shard * 250 : (shard + 1) * 250])
    one = run(rows, validation=0.1, test=0.1)
    contents = {
        part: [{**row, "_at": 0} for row in read(tmp_path / "out", part)] for part in ("train", "validation", "test")
    }
    several = run([], train=[str(tmp_path / "shards")], validation=0.1, test=0.1)
    for part, whole in contents.items():
        assert [{**row, "_at": 0} for row in read(tmp_path / "out", part)] == whole
    assert (several["fingerprint"], several["dropped"]) == (one["fingerprint"], one["dropped"])


def test_columns_are_renamed(run: Prepare, tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", [{"q": "Why?", "a": "Because."}, {"q": "Lost"}])
    result = run([], train=[{"path": other, "columns": {"prompt": "q", "response": "a"}}])
    assert read(tmp_path / "out", "train")[0] == {"prompt": "Why?", "response": "Because.", "_at": f"{other}:1"}
    assert result["dropped"] == {"unreadable_row": 1}


def test_decisions_follow_the_content_and_not_the_place(run: Prepare, tmp_path: Path) -> None:
    rows: Rows = [{"text": f"text number {i}", "label": "a"} for i in range(10)]
    file = str(tmp_path / "decisions.jsonl")
    write_decisions(
        file,
        [
            Decision(row_key(rows[2]), "drop", note="wrong"),
            Decision(row_key(rows[3]), "relabel", label="b", label_key="label"),
            Decision(row_key(rows[4]), "fix", row={"text": "better", "label": "a"}),
        ],
    )
    for order in (rows, rows[::-1]):
        result = run(order, decisions=file)
        texts = {row["text"]: row["label"] for row in read(tmp_path / "out", "train")}
        assert (result["dropped"], result["changed"]) == ({"reviewed": 1}, 2)
        assert (texts["text number 3"], texts["better"], len(texts)) == ("b", "a", 9)


def test_formats_stay_apart_and_are_read_again(run: Prepare, tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "Hi."}]}
    run([*pairs(20), chat], prepared=str(tmp_path / "out"))
    assert (tmp_path / "out" / "train.messages.jsonl").is_file()
    found = prepare(read_recipe(tmp_path / "recipe.yaml", ("model=x",)).data, seed=0)
    assert found.counts() == {"train": 21, "validation": 0, "test": 0}


def test_a_recipe_trains_from_its_folder_or_says_what_to_run(run: Prepare, tmp_path: Path) -> None:
    data = {"validation": 0.2, "prepared": str(tmp_path / "out"), "clean": ["+mask_personal"]}
    recipe = tmp_path / "recipe.yaml"

    def trained(*overrides: str) -> dict[str, int]:
        spec = read_recipe(recipe, ("model=x", *overrides))
        return prepare(spec.data, seed=spec.seed).counts()

    result = run(pairs(60), name="elsewhere", **data)
    with pytest.raises(MissingInputError, match="data prepare"):
        trained()
    result = run(pairs(60), **data)
    assert trained() == result["counts"]
    for override in ("data.validation=0.3", "seed=1", "data.dedupe.near=0.9"):
        with pytest.raises(ChangedRunError, match="other settings"):
            trained(override)
    only = make_recipe({"model": "x", "data": {"prepared": str(tmp_path / "out")}})
    assert prepare(only.data, seed=0).counts() == result["counts"]
    with open(tmp_path / "out" / "train.jsonl", "a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"train\.jsonl"):
        trained()


def test_settings_without_a_folder_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", pairs(5))
    for data in ({"clean": ["+html"]}, {"test": 0.1}, {"leak": "report"}):
        recipe = make_recipe({"model": "x", "data": {"train": [file], **data}})
        with pytest.raises(DataError, match="only on a prepared folder"):
            prepare(recipe.data, seed=0)


def test_another_folder_is_never_overwritten(run: Prepare, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        run(pairs(5))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert (tmp_path / "out" / "precious.txt").read_text() == "x"


def test_broken_rows_can_be_errors(run: Prepare) -> None:
    with pytest.raises(DataError, match="must be text"):
        run([*pairs(3), {"prompt": "x", "response": 7}], broken="error")
    with pytest.raises(DataError, match="no rows are left"):
        run([{"prompt": "x", "response": 7}])


def test_sources_with_a_task_of_their_own_stay_apart_and_are_trained_so(tmp_path: Path) -> None:
    texts = [f"Sentence number {i} about {'rain' if i % 2 else 'sun'} and {i * 7} other things" for i in range(60)]
    chat = [{"prompt": text, "response": "rain" if i % 2 else "sun"} for i, text in enumerate(texts)]
    labelled = [{"text": text, "label": "rain" if i % 2 else "sun"} for i, text in enumerate(texts)]
    task = {"kind": "classify", "verbalised": True}
    recipe = {
        "model": "smollm2-135m", "data": {
            "train": [
                {"path": write(tmp_path / "chat.jsonl", [*chat, chat[0]])},
                {"path": write(tmp_path / "kinds.jsonl", [*labelled, labelled[1], labelled[2]]), "task": task, "weight": 2},
                {"path": write(tmp_path / "more.jsonl", pairs(20)), "loss": "examples"},
            ],
            "validation": 0.2, "prepared": str(tmp_path / "out"),
        },
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    result = tutelage.data_prepare(str(path), processes=1)
    out = tmp_path / "out"
    assert result["dropped"] == {"exact_duplicate": 3}
    rows = {name: read(out, name) for name in ("train.gpt4all", "train.classify.labelled",
            "train.examples.gpt4all", "validation.gpt4all", "validation.classify.labelled")}  # fmt: skip
    assert len(rows["train.gpt4all"]) + len(rows["validation.gpt4all"]) == 60
    assert len(rows["train.classify.labelled"]) / 2 + len(rows["validation.classify.labelled"]) == 60
    held = {row["prompt"] for row in rows["validation.gpt4all"]}
    assert held == {row["text"] for row in rows["validation.classify.labelled"]}  # no input is on both sides
    made = make_recipe(recipe)
    opened_spec = opened(made.data, seed=made.seed)
    assert [(Path(s.path).name, s.task and s.task.kind, s.loss) for s in opened_spec.train] == [
        ("train.gpt4all.jsonl", None, "tokens"),
        ("train.classify.labelled.jsonl", "classify", "tokens"),
        ("train.examples.gpt4all.jsonl", None, "examples"),
    ]
