"""Exports of a real (tiny) run: what stands on disk, what other programs make of it, and what a failed gate leaves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import tutelage
from tutelage.errors import CheckFailedError, OutputError, UsageError
from tutelage.export import EXPORTERS
from tutelage.export.artifact import RECEIPT, export_model, parse_kind, read_artifact
from tutelage.export.merged import Merged
from tutelage.export.types import Source
from tutelage.methods.opening import load_located, locate

IDS = torch.tensor([[1, 50, 60, 70, 80, 90, 2, 1, 33, 44, 55]])


def export(run: Path, to: str, out: Path, **options: Any) -> dict[str, Any]:
    result: dict[str, Any] = tutelage.export(
        str(run), to=to, out=str(out), prompts=5, max_tokens=12, texts=60, **options
    )
    return result


def trained_logits(run: Path) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = load_located(locate(str(run)), torch.float32, merge=False).model(IDS).logits
        return logits


@pytest.mark.parametrize(
    "to", ["merged", "merged:bf16", "merged:fp16", "peft", "gguf:f32", "gguf:f16", "gguf:bf16", "ollama"]
)
def test_an_export_passes_the_gate_and_is_whole(lora_run: Path, tmp_path: Path, to: str) -> None:
    result = export(lora_run, to, tmp_path / "out")
    parity = result["parity"]
    assert parity["held_out"]
    assert parity["prompts"] == 5
    assert parity["tokens"] == 60  # no stop id among the random model's answers
    assert parity["same_texts"] == parity["texts"] == 60
    assert parity["template_equal"]
    assert parity["stop_ids_missing"] == ()
    if to in ("merged", "peft"):
        assert parity["agreement"] == 1.0
        assert parity["logit_difference"] <= 1e-4
    receipt = read_artifact(tmp_path / "out")
    assert {*receipt["files"], RECEIPT} == {path.name for path in (tmp_path / "out").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    json.dumps(receipt, allow_nan=False)


def test_a_merged_folder_is_the_trained_model_in_transformers(lora_run: Path, tmp_path: Path) -> None:
    export(lora_run, "merged", tmp_path / "out")
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(IDS).logits
    torch.testing.assert_close(logits, trained_logits(lora_run), atol=1e-4, rtol=0)


def test_an_adapter_is_the_trained_model_in_peft(lora_run: Path, tmp_path: Path, model_folder: Any) -> None:
    export(lora_run, "peft", tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    with torch.inference_mode():
        logits = peft.PeftModel.from_pretrained(base, str(tmp_path / "out"))(IDS).logits
    torch.testing.assert_close(logits, trained_logits(lora_run), atol=1e-4, rtol=0)
    assert not torch.allclose(
        logits, AutoModelForCausalLM.from_pretrained(model_folder("llama"))(IDS).logits, atol=1e-2
    )


def test_an_export_can_be_opened_and_exported_again(lora_run: Path, tmp_path: Path) -> None:
    export(lora_run, "merged", tmp_path / "out")
    again = export(tmp_path / "out", "merged", tmp_path / "again")
    assert not again["parity"]["held_out"]
    assert again["parity"]["logit_difference"] == 0.0
    assert again["parity"]["prompts"] == 5


def test_a_model_without_adapter_has_no_adapter_to_export(model_folder: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapter") as caught:
        export(model_folder("llama"), "peft", tmp_path / "out")
    assert "--to merged" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class Spoiled(Merged):
    """Writes a model whose last norm is off by a little."""

    def write(self, source: Source, folder: Path, precision: str) -> None:
        super().write(source, folder, precision)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.model.norm.weight.data *= 1.05
        model.save_pretrained(folder)


@pytest.fixture
def spoiled() -> Iterator[None]:
    EXPORTERS.add("spoiled")(Spoiled())
    yield
    del EXPORTERS._items["spoiled"]


@pytest.mark.usefixtures("spoiled")
def test_a_failed_gate_leaves_nothing_behind(lora_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="logits differ") as caught:
        export(lora_run, "spoiled", tmp_path / "out")
    assert caught.value.exit_code == 1
    assert "nothing was exported" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("spoiled")
def test_a_failed_gate_leaves_the_export_before_it(lora_run: Path, tmp_path: Path) -> None:
    export(lora_run, "merged", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(CheckFailedError):
        export(lora_run, "spoiled", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_an_earlier_export_is_replaced_and_anything_else_is_not(lora_run: Path, tmp_path: Path) -> None:
    export(lora_run, "merged", tmp_path / "out")
    export(lora_run, "peft", tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not an export"):
        export(lora_run, "peft", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_changed_file_is_no_finished_export(lora_run: Path, tmp_path: Path) -> None:
    export(lora_run, "peft", tmp_path / "out")
    (tmp_path / "out" / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(OutputError, match="changed"):
        read_artifact(tmp_path / "out")
    with pytest.raises(OutputError, match="not a finished export"):
        read_artifact(tmp_path)


def test_kinds_and_precisions() -> None:
    assert parse_kind("merged") == ("merged", "fp32")
    assert parse_kind("GGUF:Q8_0") == ("gguf", "q8_0")
    with pytest.raises(UsageError, match="unknown kind of export"):
        parse_kind("ggml")
    with pytest.raises(UsageError, match="no precision"):
        parse_kind("gguf:q9")


def test_lost_rows_are_said(lora_run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "run"
    folder.mkdir()
    for path in lora_run.iterdir():
        if path.name != "checkpoints":
            (folder / path.name).symlink_to(path)
    recipe = (lora_run / "recipe.yaml").read_text().replace("chat.jsonl", "gone.jsonl")
    (folder / "recipe.yaml").unlink()
    (folder / "recipe.yaml").write_text(recipe)
    made = export_model(
        locate(str(folder)), "peft", tmp_path / "out", prompts=3, max_tokens=4, texts=5, say=said.append
    )
    assert not made.parity.held_out
    assert any("built-in" in line and "cannot be read" in line for line in said)
