"""A seeded part of the 2,000 damaged models of bench/hostile: the same mutants, opened by the same child process."""

import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(autouse=True)
def _bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH / "hostile"))
    monkeypatch.syspath_prepend(str(BENCH / "correctness"))


@pytest.mark.parametrize("count", [30, pytest.param(400, marks=pytest.mark.slow)])
def test_damaged_models_are_refused_with_a_sentence(count: int) -> None:
    import models

    result = models.run({"gguf": count, "safetensors": count, "json": count})
    assert result["complaints"] == []
    assert result["counts"]["gguf refused"] > count / 2
    assert result["counts"]["safetensors refused"] > count / 2


def test_what_is_met_badly_is_told(tmp_path: Path) -> None:
    import models

    path = tmp_path / "work" / "gguf-0" / "mutant.gguf"
    good = {"kind": "refused", "problems": [["what", f"{path}:byte 7", "", "fix"]], "seconds": 0.1, "grown_mib": 1.0}
    assert models.complaints(path, good) == []
    assert models.complaints(path, good | {"problems": [["what", f"{path}: tensor", "", "fix"]]}) == []
    for worse in (
        {"seconds": 2.5}, {"grown_mib": 101.0}, {"kind": "traceback", "problems": [["KeyError"]]},
        {"problems": [["what", f"{path}:byte 7", "", ""]]}, {"problems": [["what", "elsewhere:byte 7", "", "fix"]]},
    ):  # fmt: skip
        assert len(models.complaints(path, good | worse)) == 1


def test_the_header_is_taken_apart_to_its_last_byte(tmp_path: Path) -> None:
    import models
    import mutants

    models.make_sound(tmp_path)
    for file in tmp_path.glob("*.gguf"):
        data = file.read_bytes()
        fields = mutants.gguf_fields(data)
        assert all(a.stop == b.start for a, b in pairwise(fields))
        assert fields[-1].kind == "offset"
        assert mutants.gguf(data, random.Random(1)) == mutants.gguf(data, random.Random(1)) != data
    assert "mutants" in sys.modules
