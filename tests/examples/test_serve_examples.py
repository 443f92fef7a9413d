"""The application examples as their users start them: separate processes with the official client, a real server."""

import csv
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "serve"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def served(model_folder: Callable[[str], Path]) -> Iterator[Any]:
    running = load(ROOT / "tests" / "serve" / "conftest.py").start([f"tiny={model_folder('llama')}"], slots=2, queue=2)
    yield running
    running.stop()


def run(name: str, *arguments: str, typed: str = "") -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_support_bot_answers_and_hands_over(served: Any) -> None:
    out = run(
        "support_bot.py",
        "--url",
        f"{served.url}/v1",
        "--model",
        "tiny",
        typed="Yes or no?\n\nI want a refund\nAnd now?\n",
    )
    assert out.count("passing you on to a colleague") == 1
    assert len(out) > len("I am passing you on to a colleague.") + 10


def test_the_generator_writes_drafts_that_fit_the_schema(served: Any, tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("name,colour\nlamp,blue\ndesk,red\n", encoding="utf-8")
    out = tmp_path / "drafts.jsonl"
    run(
        "content_generator.py", str(tmp_path / "products.csv"), str(out), "--url", f"{served.url}/v1", "--model", "tiny"
    )
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {row["name"] for row in rows} <= {"lamp", "desk"}
    for row in rows:
        assert 1 <= len(row["title"]) <= 60
        assert 1 <= len(row["text"]) <= 240


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with a trained tiny classifier, which takes few requests at a time."""
    serve, folder = load(ROOT / "tests" / "serve" / "conftest.py"), tmp_path_factory.mktemp("classifier")
    (folder / "bert").mkdir()
    load(ROOT / "tests" / "conformance" / "conftest.py").make_encoder(folder / "bert")
    running = serve.start([f"tickets={serve.train_task('classify', folder / 'bert', folder)}"], slots=1, queue=1)
    yield running
    running.stop()


def test_the_classifier_labels_every_line_though_the_server_is_small(classifier: Any, tmp_path: Path) -> None:
    lines = [
        f"{text} {i}" for i, text in enumerate(["thanks for the help", "the parcel never came", "a light " * 90] * 7)
    ]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    out = tmp_path / "labels.csv"
    said = run(
        "batch_classifier.py", str(tmp_path / "texts.txt"), str(out), "--url", f"{classifier.url}/v1", "--model", "tickets",
        "--batch", "3", "--sure", "0.9",
    )  # fmt: skip
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == lines
    with classifier.client() as client:
        body = {"model": "tickets", "input": lines, "truncate": True}
        expected = client.post("/v1/classify", json=body).json()["data"]
    assert [row["label"] for row in rows] == [item["label"] for item in expected]
    assert {row["label"] for row in rows[:2]} == {"good", "bad"}
    again = [row for row in rows if row["look_again"] == "yes"]
    assert all((float(row["score"]) < 0.9) == (row["look_again"] == "yes") for row in rows)
    assert f"{len(again)} of them" in said


def test_the_container_file_copies_what_the_package_is_built_from_and_nothing_else() -> None:
    lines = (EXAMPLES / "Containerfile").read_text(encoding="utf-8").splitlines()
    copied = {source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]}
    built = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = built["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", "LICENSE", built["project"]["readme"], *wheel["packages"], *wheel["force-include"]}
    assert copied == needed
    assert all((ROOT / source).exists() for source in copied)
