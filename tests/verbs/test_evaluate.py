"""`evaluate` and `compare` as their users meet them, on a tiny model that is trained on the spot."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import tutelage
from tutelage.cli import main
from tutelage.evaluate.files import read_predictions
from tutelage.runs import history, read_json

Folders = Callable[[str], Path]
PROBES = [
    {"text": "Plants need light and water to grow."}, {"text": "Water is made of hydrogen and oxygen."},
    {"query": "Question: why is the sky blue?\nAnswer:", "choices": ["light scatters", "dogs"], "gold": 0},
    {"query": "Question: what grows?\nAnswer:", "choices": ["air", "plants"], "gold": 1},
    {"prompt": "Say yes.", "check": {"kind": "words", "most": 200}}, {"prompt": "Tell me something."},
]  # fmt: skip


@pytest.fixture(scope="module")
def run(model_folder: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, trained on rows that always have the same answer."""
    folder = tmp_path_factory.mktemp("evaluated")
    with open(folder / "rows.jsonl", "w") as file:
        for i in range(40):
            row = {"prompt": f"Why is the sky blue? {i}", "response": "light", "kind": "even" if i % 4 == 0 else "odd",
                   "document": f"d{i // 4}"}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    recipe = {
        "model": str(model_folder("llama")), "data": {"train": str(folder / "rows.jsonl"), "validation": 0.3},
        "method": "full", "optim": {"epochs": 5, "batch_size": 4, "learning_rate": 5e-3},
        "max_tokens": 200, "precision": "fp32", "forgetting": False, "threads": 1, "out": str(folder / "run"),
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    tutelage.train(str(folder / "recipe.yaml"))
    probes = folder / "probes"
    probes.mkdir()
    for name, kind in (("words", "text"), ("knows", "query"), ("asks", "prompt")):
        (probes / f"{name}.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROBES if kind in p))
    return folder / "run"


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the probes of the test: the shipped ones have tests of their own, and take longer."""
    monkeypatch.setattr("tutelage.verbs.evaluate.shipped", dict)


@pytest.mark.usefixtures("few_probes")
def test_a_run_is_scored_beside_its_untouched_model_and_baselines(run: Path, capsys: Any) -> None:
    probes = str(run.parent / "probes")
    assert main(["evaluate", str(run), "--json", "--max-tokens", "8", "--slice", "length", "--probes", probes]) == 0
    result = json.loads(capsys.readouterr().out)
    validated = [event for event in history(run) if event["event"] == "validated"]
    before, after = result["untouched"]["metrics"], result["metrics"]
    for scores in (before, after):
        assert all({"value", "low", "high", "n", "method"} <= set(one) for one in scores.values())
        assert all(one["n"] == result["rows"] for one in scores.values())
    # The same code as in training: the untouched model is that of step 0, the tuned one that of the best step.
    assert before["loss"]["value"] == pytest.approx(validated[0]["loss"], rel=1e-4)
    assert after["loss"]["value"] == pytest.approx(min(one["loss"] for one in validated[1:]), rel=1e-4)
    assert after["loss"]["value"] < before["loss"]["value"]
    assert result["comparison"]["differences"]["loss"]["verdict"] == "better"
    majority = next(one for one in result["baselines"] if one["system"] == "majority")
    assert majority["metrics"]["exact_match"]["value"] == 1  # every training row has this answer
    assert "likelihood" in majority["left_out"]["loss"]
    assert [one["by"] for one in result["slices"]] == ["length"] * len(result["slices"])
    lost = result["forgetting"]
    assert set(lost["probes"]) == {"words", "knows", "asks"}
    assert lost["divergence"]["n"] == 1
    predictions = read_predictions(Path(result["predictions"]))
    assert len(predictions) == result["rows"]
    assert all(one.at.source.endswith("rows.jsonl") for one in predictions)
    assert read_json(run / "evaluation" / "held-out" / "evaluation.json")["metrics"] == after
    assert "evaluat" in (run / "report.html").read_text().lower()
    # For a reader, and again: the same to the last digit. The held-out rows have the columns of their file.
    assert main(["evaluate", str(run), "--max-tokens", "8", "--slice", "kind", "--probes", probes]) == 0
    shown = capsys.readouterr().out
    assert "exact_match" in shown
    assert "kind = odd: " in shown
    assert read_json(run / "evaluation" / "held-out" / "evaluation.json")["metrics"] == after


def test_a_file_is_scored_by_column_and_document(run: Path, tmp_path: Path, capsys: Any) -> None:
    data = str(run.parent / "rows.jsonl")
    common = [
        "--data",
        data,
        "--max-tokens",
        "4",
        "--skip-forgetting",
        "--rows",
        "20",
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert main(["evaluate", str(run), *common, "--slice", "kind", "--group", "document", "--metrics", "chrf"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [one["value"] for one in result["slices"]] == ["even", "odd"]
    assert result["rows"] == 20
    assert (
        result["metrics"]["token_f1"]["method"].endswith("over 10 groups")
        or "end of the range" in (result["metrics"]["token_f1"]["method"])
    )
    assert "nrefs:1" in result["metrics"]["chrf"]["signature"]
    assert result["forgetting"] is None


def test_two_models_are_compared_row_by_row(run: Path, model_folder: Folders, tmp_path: Path, capsys: Any) -> None:
    data = str(run.parent / "rows.jsonl")
    words = ["compare", str(model_folder("llama")), str(run), "--data", data, "--max-tokens", "4", "--skip-forgetting"]
    assert main([*words, "--rows", "12", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["differences"]["loss"]["verdict"] == "better"
    assert result["n"] == 12
    assert result["slices"] == []
    assert main([*words, "--rows", "12", "--slice", "kind", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "loss" in shown
    assert "token_f1 by kind" in shown
    parts = read_json(tmp_path / "evaluation.json")["slices"]
    assert [(one["value"], one["difference"]["n"]) for one in parts] == [
        ("even", 4),
        ("odd", 8),
    ]  # 12 of 40, evenly spread


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["--metrics", "chrff"], 2, "did you mean `chrf`?"),
        (["--task", "tagg"], 2, "unknown task `tagg`"),
        (["--slice", "knid"], 65, "did you mean `kind`?"),
        (["--group", "documant"], 65, "did you mean `document`?"),
        (["--data", "missing.jsonl"], 66, "no such file"),
        (["--probes", "/nowhere"], 66, "there are no probes here"),
    ],
)
def test_mistakes_are_sentences(run: Path, tmp_path: Path, capsys: Any, words: list[str], code: int, said: str) -> None:
    data = [] if "--data" in words else ["--data", str(run.parent / "rows.jsonl")]
    extra = [] if "--probes" in words else ["--skip-forgetting"]
    given = ["evaluate", str(run), *data, *words, *extra, "--rows", "4", "--max-tokens", "1", "--out", str(tmp_path)]
    assert main(given) == code
    assert said in capsys.readouterr().err


def test_a_learning_curve_trains_on_shares_and_says_whether_more_labels_help(run: Path, capsys: Any) -> None:
    words = ["--learning-curve", "--skip-forgetting", "--max-tokens", "2", "--json"]
    assert main(["evaluate", str(run), *words]) == 0
    found = json.loads(capsys.readouterr().out)["learning_curve"]
    sizes = [point["rows"] for point in found["points"]]
    assert sizes == sorted(sizes)
    assert [point["share"] for point in found["points"]] == [0.25, 0.5, 1.0]
    assert found["sentence"]
    assert main(["evaluate", "smollm2-135m", "--learning-curve", "--data", "x.jsonl"]) == 2
    assert "needs a run" in capsys.readouterr().err
