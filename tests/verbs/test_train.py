"""The train verb as its users meet it: the run folder, exit codes, changed recipes, interruption, a full disk."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

import tutelage
from tutelage.cli import main
from tutelage.methods.opening import open_model
from tutelage.runs import history, read_json

Folders = Callable[[str], Path]
Rows = Callable[[int], Path]


@pytest.fixture
def recipe_file(model_folder: Folders, chat_file: Rows, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small recipe, with keys changed."""

    def write(**changes: Any) -> Path:
        values: dict[str, Any] = {
            "model": str(model_folder("llama")), "data": {"train": str(chat_file(24)), "validation": 0.2},
            "method": {"kind": "lora", "rank": 4}, "optim": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3},
            "max_tokens": 400, "precision": "fp32", "forgetting": False, "threads": 1, "samples": ["Why is the sky blue?"],
            "out": str(tmp_path / "run"),
        }  # fmt: skip
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return path

    return write


def weights(run: Path) -> dict[str, bytes]:
    return {n: a.tobytes() for f in sorted((run / "model").glob("*.safetensors")) for n, a in load_file(f).items()}


def test_a_run_leaves_what_the_contract_names(recipe_file: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    path = recipe_file()
    assert main(["train", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    promised = {
        "run", "steps", "epochs", "target_tokens", "tokens", "tokens_per_second", "peak_rss_mib", "train_loss", "validation",
        "trainable_parameters", "total_parameters", "resumed_from",
    }  # fmt: skip
    assert promised <= set(result)
    assert result["validation"]["after"]["loss"] < result["validation"]["before"]["loss"]
    assert result["resumed_from"] is None
    run = tmp_path / "run"
    names = {
        "recipe.yaml",
        "manifest.json",
        "events.jsonl",
        "dropped.jsonl",
        "contract.json",
        "samples.json",
        "report.html",
    }
    assert names | {"checkpoints", "model"} <= {entry.name for entry in run.iterdir()}
    manifest = read_json(run / "manifest.json")
    assert manifest["status"] == "finished"
    assert manifest["plan"]["precision"] == "fp32"
    assert {"step", "validated", "saved", "finished"} == {event["event"] for event in history(run)}
    sample = read_json(run / "samples.json")[0]
    assert sample["before"] != sample["after"]
    # Run again: nothing to do, the same result. Resolved recipe: the same run.
    before = (run / "events.jsonl").read_bytes()
    assert main(["train", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_loss"] == result["train_loss"]
    assert main(["train", str(run / "recipe.yaml"), "--json"]) == 0
    assert (run / "events.jsonl").read_bytes() == before


def test_a_changed_recipe_or_data_is_refused_by_name_and_continued_when_told(
    recipe_file: Callable[..., Path], chat_file: Rows, tmp_path: Path, capsys: Any
) -> None:
    assert main(["train", str(recipe_file(optim={"steps": 3, "batch_size": 4}))]) == 0
    changed = recipe_file(optim={"steps": 5, "batch_size": 4, "learning_rate": 5e-4})
    assert main(["train", str(changed)]) == 1
    said = capsys.readouterr().err
    assert "optim.learning_rate: 0.0002 → 0.0005" in said
    assert "optim.steps: 3 → 5" in said
    assert "--allow-changes" in said
    assert main(["train", str(changed), "--allow-changes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 5
    with open(chat_file(24), "a") as file:
        file.write(
            json.dumps({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}) + "\n"
        )
    assert main(["train", str(changed)]) == 1
    assert "data.content" in capsys.readouterr().err
    # Another rank: the checkpoint cannot serve it, whatever is allowed.
    assert main(["train", str(changed), "--set", "method.rank=8", "--allow-changes"]) == 1
    assert "does not fit this run" in capsys.readouterr().err


def test_a_mistake_that_stopped_the_first_start_is_simply_corrected(
    recipe_file: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    keys: dict[str, Any] = {"optim": {"steps": 1, "batch_size": 4}, "samples": []}
    wrong = recipe_file(method={"kind": "lora", "target_modules": ["q_prj"]}, **keys)
    assert main(["train", str(wrong)]) == 78
    assert main(["train", str(recipe_file(method={"kind": "lora", "target_modules": ["q_proj"]}, **keys))]) == 0
    identity = read_json(tmp_path / "run" / "manifest.json")["identity"]
    assert identity["recipe"]["method"]["target_modules"] == ["q_proj"]
    (tmp_path / "run" / "manifest.json").unlink()
    capsys.readouterr()
    assert main(["train", str(wrong)]) == 1
    assert "lost its manifest.json" in capsys.readouterr().err


def test_the_manifest_tells_the_data_that_a_changed_run_goes_on_with(
    recipe_file: Callable[..., Path], chat_file: Rows, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"optim": {"steps": 1, "batch_size": 4}, "samples": []}
    tutelage.train(recipe_file(**keys))
    before = read_json(tmp_path / "run" / "manifest.json")
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text(chat_file(12).read_text())
    keys["data"] = {"train": str(fewer), "validation": 0.2}
    tutelage.train(recipe_file(**keys), allow_changes=True)
    after = read_json(tmp_path / "run" / "manifest.json")
    assert sum(before["data"]["counts"].values()) == 24
    assert sum(after["data"]["counts"].values()) == 12
    assert after["data"]["fingerprint"] == after["identity"]["data"]["content"]
    assert len(after["changes"]) == 1
    assert after["created"] == before["created"]


def test_the_full_model_folder_loads_with_from_pretrained(recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    tutelage.train(recipe_file(method="full", optim={"steps": 3, "batch_size": 4}))
    opened = open_model(str(tmp_path / "run"))  # in what this machine multiplies fast
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", dtype=opened.model.dtype).eval()
    base = open_model(str(tmp_path / "run"), base=True)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        ours, theirs, untouched = (m(input_ids=ids).logits for m in (opened.model, plain, base.model))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert not torch.allclose(ours, untouched)


def test_rows_in_memory_and_a_loaded_model_give_the_same_run(
    recipe_file: Callable[..., Path], model_folder: Folders, chat_file: Rows, tmp_path: Path
) -> None:
    path = recipe_file(optim={"steps": 3, "batch_size": 4}, samples=[])
    from_files = tutelage.train(path)
    values = yaml.safe_load(path.read_text())
    rows = [json.loads(line) for line in chat_file(24).read_text().splitlines()]
    values["data"] = {"train": rows, "validation": 0.2}
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    tokenizer = open_model(str(model_folder("llama"))).tokenizer
    recipe = tutelage.make_recipe(values | {"out": str(tmp_path / "memory")})
    in_memory = tutelage.train(recipe, loaded=(model, tokenizer))
    assert in_memory["train_loss"] == from_files["train_loss"]
    assert weights(tmp_path / "memory") == weights(tmp_path / "run")
    assert read_json(tmp_path / "memory" / "manifest.json")["model"]["source"] == "memory"


WRONG = [
    ({"optim": {"learning_rat": 1}}, 78, "did you mean `learning_rate`"),
    ({"optim": {"lr": 1}}, 78, "optim.learning_rate"),
    ({"method": "lorra"}, 78, "method"),
    ({"precision": "fp16"}, 78, "fp16 is not available yet"),
    ({"hub_token": "x"}, 78, "looks like a secret"),
    ({"data": {"train": "no/such/file.jsonl"}}, 66, "no/such/file.jsonl"),
    ({"model": "no/such/folder/here"}, 66, "no/such/folder/here"),
    ({"max_tokens": 20}, 65, "no training row fits"),
    ({"method": {"kind": "lora", "target_modules": ["q_prog"]}}, 78, "q_proj"),
    ({"method": {"kind": "lora", "adapter": "no/adapter"}}, 66, "no/adapter"),
    ({"task": {"kind": "chat", "chat_template": "no.jinja"}}, 66, "no.jinja"),
]


@pytest.mark.parametrize("changes, code, said", WRONG, ids=[said for _, _, said in WRONG])
def test_wrong_input_gets_a_sentence_and_its_exit_code(
    changes: dict[str, Any], code: int, said: str, recipe_file: Callable[..., Path], capsys: Any
) -> None:
    assert main(["train", str(recipe_file(**changes)), "--json"]) == code
    out = capsys.readouterr()
    assert said in out.err
    assert "Traceback" not in out.err
    assert json.loads(out.out)["exit_code"] == code


def test_a_violated_contract_stops_before_training_unless_allowed(
    recipe_file: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    baked = "Below is an instruction.\n\n### Instruction:\nSay yes.\n\n### Response:\n"
    data = tmp_path / "baked.jsonl"
    data.write_text("".join(json.dumps({"prompt": baked + str(i), "response": "yes"}) + "\n" for i in range(8)))
    path = recipe_file(data={"train": str(data)}, optim={"steps": 1, "batch_size": 4}, samples=[])
    assert main(["preview", str(path)]) == 1
    assert "FAIL  one_template" in capsys.readouterr().out
    assert main(["train", str(path)]) == 1
    said = capsys.readouterr().err
    assert "baked.jsonl:1" in said
    assert "Alpaca template" in said
    assert not (tmp_path / "run" / "model").exists()
    assert main(["train", str(path), "--set", "task={kind: chat, allow: [one_template]}"]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_means_saved_and_130_and_the_same_end(
    number: signal.Signals, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    steps = {"steps": 60, "batch_size": 4, "learning_rate": 1e-4}
    path = recipe_file(optim=steps, samples=[], validate={"every": 1000})
    run = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-m", "tutelage", "train", str(path)], stderr=subprocess.PIPE, text=True)
    while sum(event["event"] == "step" for event in history(run)) < 5:
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "run the same command again" in said
    assert read_json(run / "manifest.json")["status"] == "interrupted"
    done = history(run)[-1]["step"]
    assert 5 <= done < 60
    assert (run / "checkpoints" / f"step-{done:08d}").is_dir()
    if number == signal.SIGINT:
        resumed = tutelage.train(path)
        whole = tutelage.train(path, out=str(tmp_path / "whole"))
        assert resumed["resumed_from"] == done
        assert resumed["train_loss"] == whole["train_loss"]
        assert weights(run) == weights(tmp_path / "whole")


def test_a_second_process_is_refused_while_one_trains_there(
    recipe_file: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    path, run = recipe_file(), tmp_path / "run"
    command = [sys.executable, "-c", f"""
import sys, pathlib
from tutelage.runs import create, locked
with locked(create(pathlib.Path({str(run)!r}))):
    print("held", flush=True)
    sys.stdin.read()
"""]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert main(["train", str(path)]) == 73
        said = " ".join(capsys.readouterr().err.split())
        assert "another process works in this run folder" in said
        assert str(run) in said
        assert [entry.name for entry in run.iterdir()] == []
        holder.kill()
    assert main(["train", str(path), "--json"]) == 0


def test_forgetting_that_was_not_measured_to_its_end_is_measured_by_the_next_start(
    recipe_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path, run, verb = recipe_file(forgetting=True), tmp_path / "run", sys.modules["tutelage.verbs.train"]

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(verb, "aftermath", stopped)
        assert main(["train", str(path)]) == 130
    assert read_json(run / "manifest.json")["status"] == "finished"
    assert not (run / "forgetting.json").exists()
    steps, weighed = (run / "events.jsonl").read_bytes(), weights(run)
    assert main(["train", str(path), "--json"]) == 0
    assert read_json(run / "forgetting.json")
    assert json.loads(capsys.readouterr().out)["forgetting"]
    assert ((run / "events.jsonl").read_bytes(), weights(run)) == (steps, weighed)
    measured = (run / "forgetting.json").stat().st_mtime_ns
    assert main(["train", str(path)]) == 0
    assert (run / "forgetting.json").stat().st_mtime_ns == measured


def test_a_full_disk_during_a_save_is_a_warning(
    recipe_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failing = os.rename, {"step-00000002", "step-00000004"}

    def rename(source: Any, target: Any) -> None:
        if Path(target).name in failing:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    events: list[Any] = []
    path = recipe_file(optim={"steps": 5, "batch_size": 4}, save={"every": 1}, validate={"every": 9}, samples=[])
    result = tutelage.train(path, watch=events.append)
    assert result["steps"] == 5
    failed = [event.step for event in events if event.event == "saved" and event.error]
    assert failed == [2, 4]
    assert "the disk is full" in next(event.error for event in events if event.event == "saved" and event.error)
    assert not list((tmp_path / "run" / "checkpoints").glob(".step*"))


def test_a_gguf_file_is_trained_scored_asked_and_exported_like_any_model(
    recipe_file: Callable[..., Path], model_folder: Folders, chat_file: Rows, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    exported = tutelage.export(
        str(model_folder("llama")), to="gguf:f32", out=str(tmp_path / "base"), prompts=2, texts=20
    )
    assert exported["parity"]["agreement"] == 1.0
    file = tmp_path / "base" / "model.gguf"
    same = {"optim": {"steps": 4, "batch_size": 4}, "samples": []}
    run = tmp_path / "run"
    of_file = tutelage.train(tutelage.make_recipe(yaml.safe_load(recipe_file(model=str(file), **same).read_text())))
    folder = yaml.safe_load(recipe_file(out=str(tmp_path / "other"), **same).read_text())
    of_folder = tutelage.train(tutelage.make_recipe(folder))
    assert of_file["train_loss"] == of_folder["train_loss"]
    assert weights(run) == weights(tmp_path / "other")
    assert read_json(run / "manifest.json")["model"]["source"] == "gguf:model.gguf"
    for name in (str(file), str(run)):
        assert tutelage.chat(name, prompt="Why?", max_tokens=3, write=lambda text: None)["answer"] is not None
        assert tutelage.evaluate(name, data=str(chat_file(4)), max_tokens=3)["metrics"]
    tuned = tutelage.export(str(run), to="gguf:f16", out=str(tmp_path / "tuned"), prompts=2, texts=20)
    assert tuned["parity"]["agreement"] == 1.0
