"""The check as a whole, on files written here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage.data.quality.kinds import KINDS
from tutelage.errors import MissingInputError, UsageError


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def found(report: dict[str, Any]) -> dict[str, list[int]]:
    return {each["kind"]: [example["row"] for example in each["examples"]] for each in report["findings"]}


def pair(prompt: str, response: object) -> dict[str, object]:
    return {"prompt": prompt, "response": response}


GOOD = [pair(f"What is {i} plus {i}?", f"It is {2 * i}, of course number {i}.") for i in range(60)]


def test_good_rows_have_no_findings(tmp_path: Path) -> None:
    report = tutelage.data_check(write(tmp_path / "a.jsonl", GOOD))
    assert report["findings"] == ()
    assert (report["ok"], report["rows"], report["profile"]["files"][0]["formats"]) == (True, 60, {"gpt4all": 60})


def test_each_fault_is_found_at_its_row(tmp_path: Path) -> None:
    rows = [
        *GOOD,
        pair("What is 1 plus 1?", "It is 2, of course number 1."),  # 61
        pair("what is 2 plus 2", "It is 4, of course number 2."),
        pair("What is 3 plus 3?", "It is 7."),
        pair("Is it empty?", " "),
        pair("Is it null?", None),
        pair("Is it a number?", 7),
        pair("Broken?", "It\u00e2\u20ac\u2122s broken."),
        pair("### Instruction:\nTemplate", "Yes."),
        pair("Contact?", "Write to jane@example.com."),
        pair("Secret?", "Use AKIA" + "ABCDEFGHIJKLMNOP"),
    ]
    report = tutelage.data_check(write(tmp_path / "a.jsonl", rows))
    assert found(report) == {
        "exact_duplicate": [61], "normalised_duplicate": [62], "contradiction": [63], "empty_value": [64],
        "missing_value": [65], "wrong_format": [66], "type_clash": [66], "encoding_fault": [67],
        "template_text": [68], "personal_data": [69], "secret": [70],
    }  # fmt: skip
    assert not report["ok"]
    for finding in report["findings"]:
        assert finding["severity"] == KINDS[finding["kind"]].severity
        assert finding["fix"]
        assert "jane@example.com" not in json.dumps(finding)


def test_one_process_and_two_say_the_same(tmp_path: Path) -> None:
    rows = [pair(f"Question {i % 2900} about {i % 7}", f"Answer {i % 2900}") for i in range(3100)]
    file = write(tmp_path / "a.jsonl", rows)
    assert tutelage.data_check(file, processes=1) == tutelage.data_check(file, processes=2)


def test_files_that_sound_held_out_are_compared_with_the_others(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    write(tmp_path / "test.jsonl", [pair("what is 5 plus 5", "Ten."), pair("Another?", "Yes.")])
    report = tutelage.data_check([str(tmp_path)])
    (finding,) = [each for each in report["findings"] if each["kind"] == "split_overlap"]
    assert finding["examples"][0]["row"] == 1
    assert finding["examples"][0]["of"] == {"file": str(tmp_path / "train.jsonl"), "row": 6}


def test_labels_variants_and_rare_ones(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"text number {i} of many", "label": "spam" if i % 9 else "Spam"} for i in range(90)
    ]
    rows += [{"text": f"other {i} text", "label": "ham"} for i in range(3)]
    report = found(tutelage.data_check(write(tmp_path / "a.jsonl", rows)))
    assert (report["label_variants"], report["rare_label"], report["label_imbalance"]) == ([1], [91], [91])


def test_an_unreadable_file_is_a_finding_and_a_missing_one_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.zst").write_bytes(b"x")
    report = tutelage.data_check([str(tmp_path / "a.parquet.zst"), write(tmp_path / "b.jsonl", GOOD)])
    assert "unreadable_file" in found(report)
    with pytest.raises(MissingInputError):
        tutelage.data_check(str(tmp_path / "missing.jsonl"))
    with pytest.raises(UsageError):
        tutelage.data_check(str(tmp_path / "b.jsonl"), near=0.1)


def test_the_command_prints_one_document_and_imports_no_torch(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [*GOOD, pair("x", None)])
    code = (
        "import sys; from tutelage.cli import main; code = main(sys.argv[1:]);"
        "print(code, 'torch' in sys.modules, 'transformers' in sys.modules, file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "data", "check", file, "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout)["findings"][0]["kind"] == "missing_value"
    assert run.stderr.strip() == "1 False False"


def test_the_input_stays_as_it_was(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", GOOD)
    before = Path(file).read_bytes()
    tutelage.data_check(file)
    assert (Path(file).read_bytes(), list(tmp_path.iterdir())) == (before, [Path(file)])
