"""`--to merged` of models with a task of their own: a folder that transformers loads to the trained model, or nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tutelage
from tests.conformance.conftest import ROWS, make_encoder, make_pair_model
from tests.marian import make_marian
from tests.serve.conftest import train_task
from tutelage import cli
from tutelage.errors import CheckFailedError, UsageError
from tutelage.export.artifact import RECEIPT, read_artifact
from tutelage.export.card import check_card
from tutelage.export.label_parity import LabelParity, problems
from tutelage.export.merged_task import Merging
from tutelage.tasks.opening import open_for_task

Result = tuple[Path, Path, dict[str, Any]]
CASES = {  # task, kind of model, method, how transformers loads it
    "classify": ("bert", "lora", transformers.AutoModelForSequenceClassification),
    "tag": ("bert", "full", transformers.AutoModelForTokenClassification),
    "extract": ("bert", "lora", transformers.AutoModelForQuestionAnswering),
    "text": ("bert", "lora", transformers.AutoModelForMaskedLM),
    "seq2seq": ("t5", "lora", transformers.AutoModelForSeq2SeqLM),
    "seq2seq of marian": ("marian", "full", transformers.AutoModelForSeq2SeqLM),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Result]:
    """A function from a case to (run, export, result); each made once."""
    root = tmp_path_factory.mktemp("merged")
    done: dict[str, Result] = {}

    def of(name: str) -> Result:
        if name not in done:
            task, (kind, method, _) = name.partition(" ")[0], CASES[name]
            model = root / kind
            if not model.is_dir():
                model.mkdir()
                lines = [["say: ", *(row[side] for row in ROWS["seq2seq"])] for side in ("source", "target")]
                {"bert": make_encoder, "t5": make_pair_model, "marian": lambda to: make_marian(to, *lines)}[kind](model)
            run = train_task(task, model, root / name, method)
            data = str(root / name / f"{task}.jsonl")
            done[name] = (
                run,
                root / f"{name}-out",
                tutelage.export(str(run), out=str(root / f"{name}-out"), data=data, texts=60),
            )
        return done[name]

    return of


@pytest.mark.parametrize("name", CASES)
def test_the_gate_is_passed_and_the_folder_is_whole(exported: Any, name: str) -> None:
    _, folder, result = exported(name)
    parity = result["parity"]
    assert parity["same"] == parity["rows"] >= 8
    assert parity["held_out"]
    assert parity["logit_difference"] < 1e-4
    assert parity["same_texts"] == parity["texts"] == 60
    assert result["commands"] == {}
    receipt = read_artifact(folder)
    assert {*receipt["files"], RECEIPT} == {path.name for path in folder.iterdir()}
    assert check_card((folder / "README.md").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", CASES)
def test_transformers_and_every_verb_read_the_folder_alone(exported: Any, name: str, tmp_path: Path) -> None:
    run, folder, _ = exported(name)
    trained = open_for_task(str(run), precision="fp32", merge=False)
    model = CASES[name][2].from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    given = {"input_ids": ids} | ({"decoder_input_ids": ids[:, :3]} if name.startswith("seq2seq") else {})
    trained.backbone.model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        for key, value in trained.backbone.model(**given).items():
            if key.endswith("logits"):
                torch.testing.assert_close(model(**given)[key], value, atol=1e-4, rtol=0)
    data = next(run.parent.glob("*.jsonl"))
    scored = [
        tutelage.evaluate(str(each), data=str(data), skip_forgetting=True, out=str(tmp_path / str(i)))["metrics"]
        for i, each in enumerate((run, folder))
    ]
    for metric, value in scored[0].items():
        assert scored[1][metric]["value"] == pytest.approx(value["value"], abs=1e-3), metric


def test_the_command_tells_what_the_gate_saw(exported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = exported("seq2seq")[0]
    code = cli.main(["export", str(run), "--out", str(tmp_path / "out"), "--texts", "20"])
    said = capsys.readouterr().out
    assert code == 0
    assert "predicted     8 training rows, by transformers; 8 are the same" in said
    assert "tokeniser     20 of 20 hard texts identical" in said


def test_other_weights_fail_the_gate_and_leave_nothing(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Merging.write

    def damaged(self: Merging, folder: Path) -> None:
        with torch.no_grad():
            self.opened.backbone.model.get_output_embeddings().weight[:40].neg_()
        write(self, folder)

    monkeypatch.setattr(Merging, "write", damaged)
    with pytest.raises(CheckFailedError, match="predicts"):
        tutelage.export(str(exported("seq2seq")[0]), out=str(tmp_path / "out"), texts=20)
    assert list(tmp_path.iterdir()) == []


def test_a_written_text_of_a_hundred_may_part_at_a_tie_and_a_label_never() -> None:
    for same, difference, written, wrong in (
        (299, 1e-6, False, True), (297, 1e-6, True, False), (296, 1e-6, True, True), (299, 0.01, True, True),
        (300, 0.01, True, False),
    ):  # fmt: skip
        parity = LabelParity("x", 300, True, same, difference, 5, 5, written)
        assert bool(list(problems(parity, "here"))) == wrong


@pytest.mark.parametrize(
    "to, said",
    [
        ("peft", "models that go on with texts"),
        ("gguf", "models that go on with"),
        ("merged:bf16", "in fp32, not bf16"),
    ],
)
def test_what_it_cannot_be_is_refused_before_anything_is_loaded(
    exported: Any, to: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        tutelage.export(str(exported("seq2seq")[0]), to=to, out=str(tmp_path / "out"))
    assert "--to merged" in caught.value.problems[0].fix
    assert list(tmp_path.iterdir()) == []
