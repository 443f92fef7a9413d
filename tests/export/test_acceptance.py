import json
import shlex
import shutil
from pathlib import Path

import pytest

import tutelage
from tutelage.errors import OutputError
from tutelage.export.acceptance import broken, commands
from tutelage.export.artifact import read_artifact
from tutelage.methods.opening import locate


@pytest.mark.parametrize("to", ["merged", "peft", "ollama:f16"])
def test_exports_meet_every_rule_and_tell_how_to_run_them(lora_run: Path, tmp_path: Path, to: str) -> None:
    result = tutelage.export(str(lora_run), to=to, out=str(tmp_path / "out"), prompts=2, max_tokens=4, texts=5)
    assert result["broken_rules"] == []
    for program, line in result["commands"].items():
        words = shlex.split(line)
        assert words[0] == program
        assert any(str(tmp_path / "out") in word for word in words)
        assert any("run" in word for word in words)  # the name that clients use


def test_the_rank_is_the_next_that_vllm_knows(lora_run: Path, tmp_path: Path) -> None:
    tutelage.export(str(lora_run), to="peft", out=str(tmp_path / "out"), prompts=2, max_tokens=4, texts=5)
    assert "--max-lora-rank 8 " in commands("peft", tmp_path / "out", "x")["vllm"]  # the run's rank is 4


@pytest.mark.parametrize(
    "change, word",
    [({"modules_to_save": ["lm_head"]}, "modules_to_save"), ({"use_dora": True}, "use_dora"), ({"bias": "all"},
    "bias"), ({"r": 1024}, "512"), ({"rank_pattern": {"q_proj": 1024}}, "512"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights"), ({"layer_replication": [[0, 1]]}, "layer_replication")],
)  # fmt: skip
def test_broken_rules_are_named_with_their_source(
    lora_run: Path, tmp_path: Path, change: dict[str, object], word: str
) -> None:
    tutelage.export(str(lora_run), to="peft", out=str(tmp_path / "out"), prompts=2, max_tokens=4, texts=5)
    path = tmp_path / "out" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    found = broken("peft", tmp_path / "out")
    assert len(found) == 1
    assert word in found[0]
    assert "vllm/" in found[0]
    assert ("vllm" in commands("peft", tmp_path / "out", "x")) == (word != "512")  # no rank that it knows is enough


def test_an_export_is_known_to_be_of_the_model_that_it_was_made_from(lora_run: Path, tmp_path: Path) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy"
    shutil.copytree(lora_run, copy)
    tutelage.export(str(copy), to="peft", out=str(out), prompts=2, max_tokens=4, texts=5)
    assert read_artifact(out, locate(str(copy)))["kind"] == "peft"
    with pytest.raises(OutputError, match="of another model"):
        read_artifact(out, locate(str(lora_run)))
    weights = copy / "model" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes())
    with pytest.raises(OutputError, match="of another model"):
        read_artifact(out, locate(str(copy)))
