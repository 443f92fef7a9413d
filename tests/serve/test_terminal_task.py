"""Models with a task in the terminal: a line is a text, answered as the task's route and evaluation do."""

import io
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage.errors import DataError, UsageError
from tutelage.serve.terminal_task import ASKED


def asked(run: Path, text: str, **more: Any) -> dict[str, Any]:
    written: list[str] = []
    found = tutelage.chat(str(run), prompt=text, write=written.append, **more)
    assert "".join(written) == found["answer"] + "\n"
    return found


def test_each_task_answers_a_text(task_runs: dict[str, Path]) -> None:
    found = asked(task_runs["classify"], "thanks for the help")
    assert found["label"] == "good"
    assert found["answer"] == f"good {found['score']:.1%}"
    assert asked(task_runs["tag"], "ada went to rome")["answer"].startswith("person: ada (")
    assert ASKED["tag"][1]({"entities": []}) == "no entity"
    assert asked(task_runs["verbalised"], "thanks for the help")["label"] == "good"
    assert asked(task_runs["score"], "lovely sky")["answer"].startswith("score ")
    several = asked(task_runs["several"], "lovely sky")
    assert several["answer"].startswith(f"{several['labels'][0]} ")
    assert asked(task_runs["seq2seq"], "ada in rome")["answer"] == "rome ada"
    cut = asked(task_runs["seq2seq"], "ada in rome", base=True)  # the untouched model babbles to its end
    assert cut["finish_reason"] == "length"
    assert cut["answer"].endswith("(cut at the task's max_target_tokens)")


def test_lines_are_answered_until_they_end_or_say_so(
    task_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("ada in rome\n\n  bob in london \n/exit\nada in sea\n"))
    found = tutelage.chat(str(task_runs["seq2seq"]))
    assert capsys.readouterr().out == "rome ada\nlondon bob\n"
    assert (found["task"], found["texts"]) == ("seq2seq", 2)


def test_what_does_not_fit_is_refused(task_runs: dict[str, Path], encoder_folder: Path) -> None:
    with pytest.raises(UsageError, match="does nothing here") as caught:
        tutelage.chat(str(task_runs["seq2seq"]), prompt="ada", temperature=0.5)
    assert caught.value.problems[0].where == "temperature"
    for model in (task_runs["extract"], encoder_folder):
        with pytest.raises(UsageError, match="not asked line by line") as caught:
            tutelage.chat(str(model), prompt="ada")
        assert caught.value.problems[0].fix.startswith("tutelage serve ")
    for text in ("", " \n"):
        with pytest.raises(DataError, match="characters"):
            tutelage.chat(str(task_runs["tag"]), prompt=text)
