"""Every task through `evaluate`: the untouched model and the tuned one, by the same code, with intervals."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage.errors import DataError
from tutelage.evaluate.files import read_predictions
from tutelage.evaluate.scoring import MAIN
from tutelage.recipe import make_recipe
from tutelage.show import show_train
from tutelage.tasks import TASKS

Made = Callable[[str], Path]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "classify": ("bert", {"kind": "classify"}), "several": ("bert", {"kind": "classify", "multi_label": True}),
    "score": ("bert", {"kind": "classify", "num_labels": 1}),
    "verbalised": ("llama", {"kind": "classify", "verbalised": True, "instruction": "{text}"}),
    "tag": ("bert", {"kind": "tag"}), "extract": ("bert", {"kind": "extract"}),
    "seq2seq": ("t5", {"kind": "seq2seq", "max_target_tokens": 32}), "text": ("llama", {"kind": "text"}),
}  # fmt: skip


def test_every_task_stands_here() -> None:
    assert {task["kind"] for _, task in CASES.values()} | {"chat"} == set(TASKS)
    assert set(MAIN) == set(TASKS)


@pytest.mark.parametrize("case", CASES)
def test_a_tuned_model_is_better_than_the_untouched_one(case: str, made: Made, rows_file: Made, tmp_path: Path) -> None:
    kind, task = CASES[case]
    data, run = str(rows_file(case)), str(tmp_path / "run")
    recipe = make_recipe({
        "model": str(made(kind)), "task": task, "data": {"train": data}, "method": "full", "max_tokens": 128,
        "optim": {"steps": 30, "batch_size": 8, "learning_rate": 3e-3}, "precision": "fp32", "forgetting": False, "threads": 1,
    })  # fmt: skip
    tutelage.train(recipe, out=run)
    found = tutelage.evaluate(run, data=data, skip_forgetting=True, slice="length")
    assert found["task"] == task["kind"]
    assert found["rows"] == 8
    main = found["main_metric"]
    before, after = found["untouched"]["metrics"][main], found["metrics"][main]
    assert (after["value"] > before["value"]) == after["higher_is_better"] or after["value"] == before["value"]
    assert all(one["method"] and one["n"] == 8 for one in found["metrics"].values())
    assert sum(one["score"]["n"] for one in found["slices"]) == 8
    assert found["comparison"]["differences"][main]["verdict"] in ("better", "cannot tell")
    assert len(read_predictions(Path(found["predictions"]))) == 8
    if case in ("classify", "verbalised"):
        assert sum(map(sum, found["confusion"]["counts"])) == 8
    if case in ("classify", "verbalised", "tag"):
        assert found["per_class"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("kind", "case", "verb"),
    [("bert", "text", "evaluate"), ("llama", "text", "chat"), ("t5", "seq2seq", "chat"), ("bert", "tag", "evaluate")],
)
def test_what_a_run_names_next_can_be_done(
    kind: str, case: str, verb: str, made: Made, rows_file: Made, tmp_path: Path
) -> None:
    data, run = str(rows_file(case)), str(tmp_path / "run")
    result = tutelage.train(make_recipe({
        "model": str(made(kind)), "task": CASES[case][1], "data": {"train": data}, "method": "full", "max_tokens": 128,
        "optim": {"steps": 1}, "precision": "fp32", "forgetting": False, "threads": 1,
    }), out=run)  # fmt: skip
    last = list(show_train(result))[-1].split()
    assert last[:4] == ["next", "tutelage", verb, run]
    if verb == "chat":
        assert tutelage.chat(run, prompt="the sky", max_tokens=3)["model"]
    else:
        assert last[4:] == ["--data", "FILE"]
        assert tutelage.evaluate(run, data=data, skip_forgetting=True)["rows"] == 8


@pytest.mark.parametrize(
    ("model", "case", "task"),
    [("t5", "seq2seq", CASES["seq2seq"][1]), ("llama", "seq2seq", {"kind": "seq2seq", "instruction": "{source}"}),
     ("llama", "text", {"kind": "text"})],
)  # fmt: skip
def test_the_loss_of_references_is_the_held_out_loss_of_training(
    model: str, case: str, task: Any, made: Made, rows_file: Made, tmp_path: Path
) -> None:
    data = str(rows_file(case))
    run = short_run(made(model), tmp_path / "run", task, [data], validation=data)
    events = map(json.loads, (Path(run) / "events.jsonl").read_text().splitlines())
    losses = [event["loss"] for event in events if event["event"] == "validated"]
    found = tutelage.evaluate(run, data=data, skip_forgetting=True)["metrics"]
    assert found["loss"]["value"] == pytest.approx(min(losses), rel=1e-4)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(min(losses)), rel=1e-4)
    assert found["bits_per_byte"]["value"] > 0


def test_unlabelled_rows_are_ordered_by_doubt(made: Made, rows_file: Made, tmp_path: Path) -> None:
    data, run = str(rows_file("classify")), str(tmp_path / "run")
    recipe = make_recipe({
        "model": str(made("bert")), "task": {"kind": "classify"}, "data": {"train": data}, "method": "full", "max_tokens": 128,
        "optim": {"steps": 5, "batch_size": 8, "learning_rate": 3e-3}, "precision": "fp32", "forgetting": False, "threads": 1,
    })  # fmt: skip
    tutelage.train(recipe, out=run)
    unlabelled = tmp_path / "unlabelled.jsonl"
    unlabelled.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ("one thing", "and another", "one thing"))
    )
    found = tutelage.evaluate(run, data=data, label_next=str(unlabelled), skip_forgetting=True)
    lines = [json.loads(line) for line in Path(found["label_next"]).read_text().splitlines()]
    assert len(lines) == 2  # the third is the first again
    assert lines[0]["uncertainty"] >= lines[1]["uncertainty"]
    pairs = [{"text": "one thing", "text_pair": other, "id": 7} for other in ("good", "terrible night")]
    unlabelled.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    found = tutelage.evaluate(run, data=data, label_next=str(unlabelled), skip_forgetting=True)
    lines = [json.loads(line) for line in Path(found["label_next"]).read_text().splitlines()]
    assert {line["text_pair"] for line in lines} == {"good", "terrible night"}
    assert {line["id"] for line in lines} == {7}
    unlabelled.write_text('{"txet": "x"}\n')
    with pytest.raises(DataError, match="no `text`"):
        tutelage.evaluate(run, data=data, label_next=str(unlabelled), skip_forgetting=True)


def short_run(model: Path, out: Path, task: Any, train: list[Any], **more: Any) -> str:
    recipe = make_recipe({
        "model": str(model), "task": task, "data": {"train": train, **more}, "method": "full", "max_tokens": 128,
        "optim": {"steps": 30, "batch_size": 8, "learning_rate": 3e-3}, "precision": "fp32", "forgetting": False, "threads": 1,
    })  # fmt: skip
    tutelage.train(recipe, out=str(out))
    return str(out)


def test_words_to_tag_next_are_those_it_is_least_sure_of(made: Made, rows_file: Made, tmp_path: Path) -> None:
    kind, task = CASES["tag"]
    data = str(rows_file("tag"))
    run = short_run(made(kind), tmp_path / "run", task, [data])
    unlabelled = tmp_path / "unlabelled.jsonl"
    rows = [
        {"text": "Ada lives, in London.", "id": 1},
        {"tokens": ["a", "good", "night"]},
        {"text": "ada lives , in london ."},
    ]
    unlabelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = tutelage.evaluate(run, data=data, label_next=str(unlabelled), skip_forgetting=True)
    lines = [json.loads(line) for line in Path(found["label_next"]).read_text().splitlines()]
    assert {line["row"] for line in lines} == {1, 2}  # the third is the first again
    assert [line["uncertainty"] for line in lines] == sorted((line["uncertainty"] for line in lines), reverse=True)
    text = next(line for line in lines if line["row"] == 1)
    assert (text["id"], text["tokens"]) == (1, ["Ada", "lives", ",", "in", "London", "."])
    assert all(len(line["guess"]) == len(line["tokens"]) for line in lines)
    unlabelled.write_text('{"text": "  "}\n{"tokens": ["a", 3]}\n')
    with pytest.raises(DataError, match="no words") as caught:
        tutelage.evaluate(run, data=data, label_next=str(unlabelled), skip_forgetting=True)
    assert len(caught.value.problems) == 2


def test_questions_to_answer_next_are_those_it_is_least_sure_of(made: Made, rows_file: Made, tmp_path: Path) -> None:
    kind, task = CASES["extract"]
    data = rows_file("extract")
    run = short_run(made(kind), tmp_path / "run", task, [str(data)])
    known = json.loads(data.read_text().splitlines()[0])
    unlabelled = tmp_path / "unlabelled.jsonl"
    rows = [
        {"question": known["question"], "context": known["context"], "from": "mail"},
        {"question": "who sees the moon", "context": known["context"]},
        {"question": "who sees the moon", "context": known["context"]},
    ]
    unlabelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = tutelage.evaluate(run, data=str(data), label_next=str(unlabelled), skip_forgetting=True)
    lines = [json.loads(line) for line in Path(found["label_next"]).read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == [1, 2]  # the third is the second again
    assert 1 >= lines[0]["uncertainty"] >= lines[1]["uncertainty"] >= 0
    assert all(line["guess"] in line["context"] for line in lines)
    assert next(line for line in lines if line["row"] == 1)["from"] == "mail"
    unlabelled.write_text('{"question": "who"}\n{"context": "a night"}\n')
    with pytest.raises(DataError, match="no `context`") as caught:
        tutelage.evaluate(run, data=str(data), label_next=str(unlabelled), skip_forgetting=True)
    assert [problem.what for problem in caught.value.problems] == [
        "this row has no `context`", "this row has no `question`",
    ]  # fmt: skip


@pytest.mark.parametrize("case", ["classify", "several", "verbalised", "tag"])
def test_rows_that_count_one_each_keep_the_labels_of_the_task(
    case: str, made: Made, rows_file: Made, tmp_path: Path
) -> None:
    kind, task = CASES[case]
    data = str(rows_file(case))
    run = short_run(made(kind), tmp_path / "run", task, [{"path": data, "loss": "examples"}])
    plain = short_run(made(kind), tmp_path / "plain", task, [data])
    saved, expected = (json.loads((Path(p) / "model" / "task.json").read_text())["labels"] for p in (run, plain))
    assert saved == expected
    found = tutelage.evaluate(run, data=data, skip_forgetting=True)
    main = found["main_metric"]
    assert found["metrics"][main]["value"] > 0.5


def test_each_task_of_a_mixed_run_is_evaluated_by_its_name(made: Made, rows_file: Made, tmp_path: Path) -> None:
    labels, pairs = str(rows_file("verbalised")), str(rows_file("seq2seq"))
    train = [
        {"path": labels, "task": CASES["verbalised"][1]},
        {"path": pairs, "task": {"kind": "seq2seq", "max_target_tokens": 8}},
    ]
    run = short_run(made("llama"), tmp_path / "run", "chat", train, validation=0.25)
    first = tutelage.evaluate(run, skip_forgetting=True)
    assert first["task"] == "classify"
    assert first["metrics"]["accuracy"]["n"] == first["rows"] > 0
    held = tutelage.evaluate(run, task="seq2seq", skip_forgetting=True)
    assert held["task"] == "seq2seq"
    assert held["rows"] > 0
    assert tutelage.evaluate(run, data=labels, skip_forgetting=True)["rows"] == 8
    assert tutelage.evaluate(run, data=pairs, task="seq2seq", skip_forgetting=True)["rows"] == 8


@pytest.mark.parametrize("case", ["classify", "several", "verbalised", "tag"])
def test_a_label_that_training_lacked_is_a_sentence_with_its_row(
    case: str, made: Made, rows_file: Made, tmp_path: Path
) -> None:
    kind, task = CASES[case]
    run = short_run(made(kind), tmp_path / "run", task, [str(rows_file(case))])
    odd: dict[str, Any] = {"text": "a text", "label": "unheard"}
    if case == "tag":
        odd = {"tokens": ["a", "word"], "tags": ["O", "B-unheard"]}
    if case == "several":
        odd = {"text": "a text", "labels": ["unheard"]}
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps(odd) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"unheard.*is unknown") as caught:
        tutelage.evaluate(run, data=str(path), skip_forgetting=True)
    assert caught.value.problems[0].where == f"{path}:1"


def test_a_question_without_room_for_its_context_is_named_and_not_scored(
    made: Made, rows_file: Made, tmp_path: Path
) -> None:
    data = rows_file("extract")
    run = short_run(made("bert"), tmp_path / "run", {"kind": "extract"}, [str(data)])
    row = json.loads(data.read_text(encoding="utf-8").splitlines()[0])
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "question": "where " * 200}) + "\n", encoding="utf-8")
    found = tutelage.evaluate(run, data=str(path), skip_forgetting=True)
    assert found["too_long"] == [f"{path}:2"]
    assert found["rows"] == 1


def test_a_reward_model_is_scored_by_how_often_it_ranks_right(made: Made, rows_file: Made, tmp_path: Path) -> None:
    data = str(rows_file("preference"))
    run = short_run(made("bert"), tmp_path / "run", {"kind": "classify", "num_labels": 1}, [data])
    found = tutelage.evaluate(run, data=data, skip_forgetting=True)
    assert list(found["metrics"]) == ["accuracy"]
    assert found["metrics"]["accuracy"]["value"] > found["untouched"]["metrics"]["accuracy"]["value"] - 1e-9
    assert found["baselines"] == found["per_class"] == []
    assert found["confusion"] is None


@pytest.mark.parametrize(("case", "rows"), [
    ("score", [{"text": f"text {i}", "label": str(i / 4)} for i in range(8)]),
    ("several", [{"text": f"text {i}", "label": "good|short" if i % 2 else "bad"} for i in range(8)]),
])  # fmt: skip
def test_the_majority_is_of_labels_as_the_task_reads_them(
    case: str, rows: list[dict[str, str]], made: Made, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {**CASES[case][1], **({"separator": "|"} if case == "several" else {})}
    run = short_run(made("bert"), tmp_path / "run", task, [str(path)])
    found = tutelage.evaluate(run, data=str(path), skip_forgetting=True)
    (majority,) = found["baselines"]
    outputs = {str(p.output) for p in read_predictions(Path(majority["predictions"]))}
    assert outputs == {"0.875" if case == "score" else "('bad',)"}


def test_a_prompt_beyond_the_context_is_named_and_not_scored(made: Made, rows_file: Made, tmp_path: Path) -> None:
    data = rows_file("seq2seq")
    run = short_run(made("llama"), tmp_path / "run", {"kind": "seq2seq", "max_target_tokens": 8}, [str(data)])
    places = json.loads((made("llama") / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    row = json.loads(data.read_text(encoding="utf-8").splitlines()[0])
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "source": "rain " * places}) + "\n", encoding="utf-8")
    found = tutelage.evaluate(run, data=str(path), skip_forgetting=True)
    assert found["too_long"] == [f"{path}:2"]
    assert found["rows"] == 1


def test_tags_that_mark_no_entities_are_scored_by_word(made: Made, tmp_path: Path) -> None:
    rows = [{"tokens": f"the sky is {w}".split(), "tags": ["DET", "NOUN", "VERB", "ADJ"]} for w in ("blue", "good")] * 3
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = short_run(made("bert"), tmp_path / "run", {"kind": "tag"}, [str(path)])
    found = tutelage.evaluate(run, data=str(path), skip_forgetting=True)
    assert found["main_metric"] == "tag_accuracy"
    assert set(found["metrics"]) == {"tag_accuracy"}
    (majority,) = found["baselines"]
    assert majority["metrics"]["tag_accuracy"]["value"] == 0.25
    assert sum(map(sum, found["confusion"]["counts"])) == 24
    assert {one["name"]: one["support"] for one in found["per_class"]}["NOUN"] == 6
