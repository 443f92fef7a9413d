"""The application examples as their users start them: separate processes with the official client, a real server."""

import csv
import importlib.util
import json
import subprocess
import sys
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


def test_the_classifier_labels_every_line_though_the_server_is_small(served: Any, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("".join(f"Message {i}.\n" for i in range(12)), encoding="utf-8")
    out = tmp_path / "labels.csv"
    run(
        "batch_classifier.py", str(tmp_path / "texts.txt"), str(out), "--url", f"{served.url}/v1", "--model", "tiny",
        "--labels", "billing", "technical", "other",
    )  # fmt: skip
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [f"Message {i}." for i in range(12)]
    assert {row["label"] for row in rows} <= {"billing", "technical", "other"}
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)
