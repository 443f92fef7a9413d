"""The example that prepares data on a Ray cluster, in Ray's local mode: the single run's folder in every byte."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import tutelage

EXAMPLE = Path(__file__).parents[2] / "examples" / "data_on_ray.py"


@pytest.mark.slow  # Ray takes many seconds to start
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs pip install 'ray[data]'")
def test_the_example_makes_the_same_folder(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i} plus {i + 1}?", "response": f"It is {2 * i + 1}, {i} times."} for i in range(2500)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    data = {"train": [str(tmp_path / "rows.jsonl")], "validation": 0.1, "prepared": str(tmp_path / "out")}
    recipe.write_text(json.dumps({"data": data}), encoding="utf-8")
    tutelage.data_prepare(str(recipe))
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    command = [sys.executable, str(EXAMPLE), str(recipe), str(tmp_path / "shards"), "--shards", "3"]
    subprocess.run(command, check=True, timeout=600)
    assert len(list((tmp_path / "shards").iterdir())) == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected
