import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tutelage as package
from tutelage import cli
from tutelage.errors import MAX_PROBLEMS, DataError, Problem
from tutelage.options import VERBS


def inside(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The command line in this process: exit code, stdout, stderr."""
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tutelage", "--help"], capture_output=True, text=True, check=True
    )
    loaded = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"typer", "tutelage.cli"} < loaded
    assert loaded & {"torch", "transformers", "numpy", "rich", "rich.progress", "yaml", "pydantic", "jinja2"} == set()


def test_help_takes_less_than_three_tenths_of_a_second_more_than_python_itself() -> None:
    def best(*command: str) -> float:  # processor time: a busy machine does not count
        times = []
        for _ in range(3):
            start = os.times()
            subprocess.run([sys.executable, *command], capture_output=True, check=True)
            end = os.times()
            times.append(end.children_user + end.children_system - start.children_user - start.children_system)
        return min(times)

    assert best("-m", "tutelage", "--help") - best("-c", "pass") < 0.3


def test_every_verb_is_a_command_and_its_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    for name, options in VERBS.items():
        code, out, _ = inside(capsys, *name.split("_"), "--help")
        assert code == 0
        for field in options.__dataclass_fields__.values():
            assert field.name.replace("_", "-") in out or field.name in out
        assert "--json" in out
        assert " ".join(options.__doc__.split()) in " ".join(out.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "--version")
    assert (code, bool(re.fullmatch(r"tutelage \d+\.\d+\.\d+\n", out))) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian", "r.yaml"], "No such command 'trian'. Did you mean 'train'?"),
        (["train"], "Missing argument"),
        (["runs", "--foldr", "x"], "--foldr"),
        (["chat", "m", "--max-tokens", "many"], "'--max-tokens'"),
    ],
)
def test_a_command_line_that_cannot_be_understood_is_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, out, err = inside(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert "--help" in err
    code, out, _ = inside(capsys, *arguments, "--json")
    assert code == json.loads(out)["exit_code"] == 2
    assert said in json.loads(out)["problems"][0]["what"]


def test_no_command_shows_the_help_and_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = inside(capsys)
    assert code == 2
    assert "quickstart" in err


def test_an_error_of_a_verb_is_sentences_and_its_exit_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = inside(capsys, "train", tmp_path / "nothing.yaml")
    assert (code, out) == (66, "")
    assert err.startswith(f"error: {tmp_path / 'nothing.yaml'}: there is no such recipe\n  fix: ")
    code, out, _ = inside(capsys, "train", tmp_path / "nothing.yaml", "--json")
    assert code == 66
    assert json.loads(out)["problems"][0]["where"] == str(tmp_path / "nothing.yaml")


def test_all_problems_of_a_recipe_are_shown_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: x\ndata: {train: a.jsonl}\noptim: {learning_rat: 1}\nsede: 1\n")
    code, _, err = inside(capsys, "train", recipe, "--set", "max_tokens=0")
    assert code == 78
    assert err.count("error: ") == 3


def test_more_problems_than_a_screen_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    cli._fail(DataError([Problem(f"row {i}") for i in range(MAX_PROBLEMS + 5)]), as_json=False)
    err = capsys.readouterr().err.splitlines()
    assert len(err) == MAX_PROBLEMS + 1
    assert err[-1] == "... and 5 more"


def test_results_are_lines_or_one_json_document(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = inside(capsys, "runs", "--folder", tmp_path)
    assert code == 0
    assert "no runs" in out
    code, out, _ = inside(capsys, "runs", "--folder", tmp_path, "--json")
    assert (code, json.loads(out)) == (0, {"folder": str(tmp_path), "runs": []})


def test_progress_goes_to_stderr_and_the_document_stays_whole(
    capsys: pytest.CaptureFixture[str], model_folder: Callable[[str], Path]
) -> None:
    code, out, _ = inside(capsys, "models", "get", model_folder("llama"), "--json")
    document = json.loads(out)
    assert code == 0
    assert document["path"] == str(model_folder("llama"))
    assert document["source"] == "folder"
    assert re.fullmatch("[0-9a-f]{64}", document["sha256"])


def test_what_a_verb_prints_does_not_reach_the_document(
    capsys: pytest.CaptureFixture[str], model_folder: Callable[[str], Path]
) -> None:
    code, out, err = inside(capsys, "chat", model_folder("llama"), "--prompt", "Hello", "--max-tokens", "3", "--json")
    assert code == 0
    assert json.loads(out)["messages"][0] == {"role": "user", "content": "Hello"}
    assert json.loads(out)["answer"] in err


def test_a_gate_that_says_no_is_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", "/proc/none")  # nothing can be made there, not even by root
    code, out, _ = inside(capsys, "doctor", "--json")
    assert code == 1
    assert json.loads(out)["ok"] is False
    assert "model cache" in [check["name"] for check in json.loads(out)["checks"] if check["status"] == "FAIL"]


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that puts a verb with the given body in the place of `runs`, through the table that the CLI reads."""

    def put(body: str) -> None:
        name = f"verb_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(f"def runs(*, folder='runs'):\n    {body}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(package.HOMES, "runs", name)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    return put


def test_a_bug_is_one_line_a_file_and_70(
    capsys: pytest.CaptureFixture[str], verb: Callable[[str], None], tmp_path: Path
) -> None:
    verb("raise ZeroDivisionError('of all\\nthings')")
    code, out, err = inside(capsys, "runs")
    assert (code, out, err.count("\n")) == (70, "", 1)
    assert "ZeroDivisionError: of all things" in err
    (file,) = tmp_path.glob("tutelage-crash-*.txt")
    assert str(file) in err
    assert "Traceback" in file.read_text()
    code, out, err = inside(capsys, "runs", "--json", "--debug")
    assert code == json.loads(out)["exit_code"] == 70
    assert "Traceback" in err


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str], verb: Callable[[str], None]) -> None:
    verb("raise KeyboardInterrupt")
    assert inside(capsys, "runs") == (130, "", "interrupted\n")


def test_what_a_library_prints_goes_to_stderr(capsys: pytest.CaptureFixture[str], verb: Callable[[str], None]) -> None:
    verb("print('chatter'); return {'a': float('nan')}")
    assert inside(capsys, "runs", "--json") == (0, '{\n  "a": null\n}\n', "chatter\n")


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    for i in range(500):  # 100 KB of lines: more than a pipe takes in one go
        run = tmp_path / f"run-{i:0200}"
        run.mkdir()
        (run / "manifest.json").write_text('{"status": "finished"}')
    command = f"'{sys.executable}' -m tutelage runs --folder '{tmp_path}' | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "141"
    assert done.stderr == ""


def test_json_is_readable_whatever_the_terminal_speaks(tmp_path: Path) -> None:
    run = tmp_path / "läufe" / "ein"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "tutelage", "runs", "--folder", str(run.parent), "--json"], capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert json.loads(done.stdout)["runs"][0]["run"] == str(run)
