import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import tutelage
from tutelage.columns import size
from tutelage.errors import MissingInputError
from tutelage.runs import plain
from tutelage.show import SHOW
from tutelage.verbs import doctor


def lines(name: str, result: object) -> str:
    return "\n".join(SHOW[name](plain(result)))


def make_run(folder: Path, **manifest: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_runs_are_listed_with_what_they_brought_and_damaged_ones_are_named(tmp_path: Path) -> None:
    done = make_run(
        tmp_path / "done", status="finished", model={"name": "org/tiny"}, totals={"steps": 1234},
        validation={"before": {"loss": 3.25}, "after": {"loss": 1.5}},
    )  # fmt: skip
    (done / "recipe.yaml").write_text("method: {kind: lora, rank: 8}\n")
    make_run(tmp_path / "begun", status="running")
    (make_run(tmp_path / "torn") / "manifest.json").write_text("{")
    (tmp_path / "no_run").mkdir()
    listed = {Path(run["run"]).name: run for run in tutelage.runs(folder=str(tmp_path))["runs"]}
    assert set(listed) == {"done", "begun", "torn"}
    assert (listed["done"]["steps"], listed["done"]["loss_before"], listed["done"]["loss_after"]) == (1234, 3.25, 1.5)
    assert (listed["begun"]["status"], listed["begun"]["steps"]) == ("running", 0)
    assert listed["torn"]["status"] == "damaged"
    assert "manifest.json" in listed["torn"]["problem"]
    shown = lines("runs", tutelage.runs(folder=str(tmp_path)))
    assert re.search(r"done +finished +tiny +LoRA, rank 8 +1,234 +3\.250 → 1\.500", shown)


def test_report_writes_a_page_into_the_run_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", status="finished")
    path = tutelage.report(str(run))["report"]
    assert path == run / "report.html"
    assert "<html" in path.read_text()
    with pytest.raises(MissingInputError, match="not a run folder"):
        tutelage.report(str(tmp_path))


def test_a_model_is_described_from_its_headers(model_folder: Callable[[str], Path]) -> None:
    found = tutelage.models_describe(str(model_folder("llama")))
    assert (found["architecture"], found["layers"], found["context"]) == ("LlamaForCausalLM", 2, 512)
    assert found["has_chat_template"]
    assert "LlamaForCausalLM" in lines("models_describe", found)


def test_the_catalogue_has_the_default_model() -> None:
    assert "smollm2-135m" in lines("models_list", tutelage.models_list())


def test_chat_answers_one_question_the_same_each_time(model_folder: Callable[[str], Path]) -> None:
    pieces: list[str] = []
    options = {"prompt": "Hello", "system": "Be brief.", "max_tokens": 5}
    first = tutelage.chat(str(model_folder("llama")), **options, write=pieces.append)
    assert "".join(pieces) == first["answer"] + "\n"
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]
    assert tutelage.chat(str(model_folder("llama")), **options)["answer"] == first["answer"]


def test_chat_reads_questions_from_a_pipe(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("One?\nTwo?\n"))
    told = tutelage.chat(str(model_folder("llama")), max_tokens=4, temperature=1.0, seed=3)
    assert [message["role"] for message in told["messages"]] == ["user", "assistant"] * 2
    assert capsys.readouterr().out == "".join(m["content"] + "\n" for m in told["messages"][1::2])


def test_doctor_measures_this_machine() -> None:
    found = tutelage.doctor()
    names = [check.name for check in found["checks"]]
    assert {"python", "torch", "transformers", "jinja2", "safetensors", "matmul bf16", "memory", "cores"} <= set(names)
    assert found["ok"] == all(check.status != "FAIL" for check in found["checks"])
    assert all(check.fix for check in found["checks"] if check.status != "PASS")
    assert f"{len(names)}" == str(sum(map(int, re.findall(r"\d+", lines("doctor", found).splitlines()[-1]))))


@pytest.mark.parametrize(
    ("version", "expected"), [("2.13.0+cpu", (2, 13)), ("3.1.6", (3, 1, 6)), ("5.0rc1", (5,)), ("4.0.0.dev0", (4,))]
)
def test_versions_compare_by_number(version: str, expected: tuple[int, ...]) -> None:
    assert doctor.numbers(version) == expected


def test_packages_below_their_floor_or_missing_fail() -> None:
    checks = doctor.packages(["numpy>=99", "no-such-package>=1.0 ; python_version > '3'", "torch>=2; extra == 'gpu'"])
    assert [(check.name, check.status) for check in checks] == [("numpy", "FAIL"), ("no-such-package", "FAIL")]
    assert checks[0].fix == "pip install --upgrade 'numpy>=99'"


def test_an_extra_names_what_is_missing() -> None:
    (check,) = doctor.extras(["numpy; extra == 'serve'", "no-such-package>=1; extra == 'serve'", "x; extra == 'dev'"])
    assert (check.name, check.status, check.found) == ("extra serve", "WARN", "missing no-such-package")


def test_little_memory_is_told(tmp_path: Path) -> None:
    gib = 2**30
    statuses = [doctor.memory((16 * gib, free)).status for free in (gib, 2 * gib, 8 * gib)]
    assert statuses == ["FAIL", "WARN", "PASS"]
    total, free = doctor.memory_limit()
    assert 0 < free <= total


def test_values_become_json_or_are_refused() -> None:
    assert plain({"a": (Path("x"), float("inf"), None, True)}) == {"a": ["x", None, None, True]}
    with pytest.raises(TypeError, match="set"):
        plain({1, 2})
    assert [size(n) for n in (None, 5, 3 * 2**20, 5 * 2**30)] == ["-", "5 B", "3 MiB", "5.0 GiB"]
