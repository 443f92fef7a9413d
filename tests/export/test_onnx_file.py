"""Encoders as ONNX: the same labels, tags, answers and vectors in onnxruntime, whatever batch and length; wrong ones refused."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import tutelage
from tutelage import cli
from tutelage.errors import CheckFailedError, TutelageError
from tutelage.export.artifact import RECEIPT, read_artifact
from tutelage.export.card import check_card
from tutelage.export.label_parity import enforce, problems
from tutelage.export.onnx_file import FILE, open_for_onnx
from tutelage.export.prompts import hard_texts
from tutelage.methods.opening import locate

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SERVE = load(Path(__file__).parents[1] / "serve" / "conftest.py")
CONFORMANCE = load(Path(__file__).parents[1] / "conformance" / "conftest.py")
CASES = {"classify": "full", "several": "lora", "tag": "full", "extract": "lora", "vectors": ""}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    folder.mkdir()
    CONFORMANCE.make_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def exported(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path, Any]]:
    """A function from a case to (run, export, result); each made once."""
    root = tmp_path_factory.mktemp("onnx")
    made: dict[str, tuple[Path, Path, Any]] = {}

    def of(name: str) -> tuple[Path, Path, Any]:
        if name not in made:
            run = SERVE.train_task(name, encoder, root, CASES[name]) if CASES[name] else encoder
            data = str(root / f"{name}.jsonl") if CASES[name] else None
            result = tutelage.export(str(run), to="onnx", out=str(root / f"{name}-onnx"), data=data, texts=60)
            made[name] = run, root / f"{name}-onnx", result
        return made[name]

    return of


@pytest.mark.parametrize("name", CASES)
def test_the_gate_is_passed_and_the_folder_is_whole(exported: Any, name: str) -> None:
    _, folder, result = exported(name)
    parity = result["parity"]
    assert parity["same"] == parity["rows"] >= 8
    assert parity["held_out"]
    assert 0 < parity["logit_difference"] < 1e-4
    assert parity["same_texts"] == parity["texts"] == 60
    receipt = read_artifact(folder)
    assert {*receipt["files"], RECEIPT} == {path.name for path in folder.iterdir()}
    assert {FILE, "tokenizer.json", "config.json", "README.md"} <= set(receipt["files"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert check_card(card) == []
    assert "tokenise identically" in card
    onnx.checker.check_model(str(folder / FILE))
    json.dumps(result, allow_nan=False)


def test_a_stranger_gets_the_labels_from_the_folder_alone(exported: Any) -> None:
    """onnxruntime, the tokenizer and config.json: no code of ours, and texts of other lengths than were traced."""
    run, folder, _ = exported("classify")
    texts = [
        "thanks for the help",
        "bad harbour",
        "good sea",
        "rain fell all night by the sea and the wind " * 3,
        "blue",
    ]
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    session = onnxruntime.InferenceSession(str(folder / FILE))
    names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
    for chosen in (texts, texts[:1], texts[2:4]):
        inputs = dict(tokenizer(chosen, padding=True, return_tensors="np"))
        (logits,) = session.run(None, {key: value.astype(np.int64) for key, value in inputs.items()})
        labels = [names[str(i)] for i in logits.argmax(-1)]
        model = transformers.AutoModelForSequenceClassification.from_pretrained(run / "model", dtype=torch.float32)
        with torch.no_grad():
            expected = model.eval()(**tokenizer(chosen, padding=True, return_tensors="pt")).logits
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        assert labels == [model.config.id2label[int(i)] for i in expected.argmax(-1)]


def test_vectors_are_pooled_inside_the_graph(exported: Any, encoder: Path) -> None:
    _, folder, _ = exported("vectors")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    session = onnxruntime.InferenceSession(str(folder / FILE))
    inputs = dict(tokenizer(["blue sky", "rain fell all night"], padding=True, return_tensors="np"))
    states, vectors = session.run(None, {key: value.astype(np.int64) for key, value in inputs.items()})
    mask = inputs["attention_mask"][..., None]
    means = (states * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(vectors, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)


def test_a_graph_with_other_weights_fails_the_gate_and_leaves_nothing(exported: Any, tmp_path: Path) -> None:
    run, _, _ = exported("classify")
    data = str(run.parent / "classify.jsonl")
    opened, _ = open_for_onnx(locate(str(run)), rows=8, data=data, say=print)
    trained = opened.trained()
    opened.write(tmp_path)
    graph = onnx.load(tmp_path / FILE)
    weights = next(item for item in graph.graph.initializer if "classifier.weight" in item.name)
    turned = -onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(turned, weights.name))
    onnx.save(graph, tmp_path / FILE)
    parity = opened.measure(tmp_path, hard_texts(20), trained)
    assert parity.same < parity.rows
    with pytest.raises(CheckFailedError, match="rows otherwise"):
        enforce(parity, "here")
    assert len(list(problems(parity, "here"))) == 1


def test_what_has_no_such_export_says_why(exported: Any, model_folder: Any, tmp_path: Path) -> None:
    run, _, _ = exported("classify")
    with pytest.raises(TutelageError, match="ONNX export is for encoders"):
        tutelage.export(str(model_folder("llama")), to="onnx", out=str(tmp_path / "out"))
    with pytest.raises(TutelageError, match="no precision `int8`"):
        tutelage.export(str(run), to="onnx:int8", out=str(tmp_path / "out"))
    with pytest.raises(TutelageError, match="models that go on with texts"):
        tutelage.export(str(run), to="gguf", out=str(tmp_path / "out"))
    with pytest.raises(TutelageError, match="nothing to compare"):
        tutelage.export(str(run / "model"), to="onnx", out=str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_without_held_out_rows_that_is_said(exported: Any, tmp_path: Path) -> None:
    run, _, _ = exported("tag")
    said: list[str] = []
    opened, kind = open_for_onnx(locate(str(run)), rows=50, data=None, say=said.append)
    assert kind == "tag"
    assert not opened.held_out  # type: ignore[union-attr]
    assert any("rows of the training data are predicted" in line for line in said)


def test_the_command_tells_what_the_gate_saw(exported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = exported("classify")[0]
    assert cli.main(["export", str(run), "--to", "onnx", "--out", str(tmp_path / "out"), "--texts", "20"]) == 0
    assert "predicted     8 training rows, by onnxruntime" in capsys.readouterr().out
