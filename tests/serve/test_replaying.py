"""The server's parity gate: a run is served as it was trained, or not at all."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.errors import CheckFailedError
from tutelage.runs import read_json
from tutelage.serve import replaying, served
from tutelage.serve.limits import Limits
from tutelage.serve.opening import open_models


def start(run: Path, dtype: torch.dtype = torch.float32, **more: Any) -> list[str]:
    said: list[str] = []
    open_models(
        [f"tuned={run}"], dtype=dtype, precision="auto", limits=Limits(), base=False, say=said.append, threads=1, **more
    )
    return [line for line in said if "served as it was trained" in line]


@pytest.fixture
def run(lora_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lora_run, tmp_path / "run"))


def test_a_run_is_held_to_the_trained_model_once_for_each_precision(run: Path) -> None:
    assert len(start(run)) == 2
    passed = read_json(run / "served-fp32.json")
    assert passed["agreement"] == 1.0
    assert passed["tokens"] > 50
    assert passed["held_out"]
    assert passed["logit_difference"] < 1e-4
    assert abs(passed["loss_change"]) < 1e-4
    assert start(run) == []
    assert len(start(run, torch.bfloat16)) == 2
    assert start(run, torch.bfloat16) == []


def test_a_run_that_was_written_again_is_asked_again(run: Path) -> None:
    start(run)
    file = run / "model" / "adapter_model.safetensors"
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 10**9))
    assert len(start(run)) == 2
    (run / "served-fp32.json").write_text("[")
    assert len(start(run)) == 2


def test_nothing_is_proven_where_it_is_not_wanted(run: Path) -> None:
    assert start(run, check=False) == []
    assert not list(run.glob("served-*.json"))


def test_another_adapter_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(pairs: Mapping[str, Any], scale: float, *rest: Any) -> Any:
        return fuse(pairs, 2 * scale, *rest)

    fuse = served.fuse
    monkeypatch.setattr(served, "fuse", doubled)
    with pytest.raises(CheckFailedError, match="tuned as it would be served in fp32"):
        start(run)
    assert not (run / "served-fp32.json").exists()


@pytest.mark.parametrize("change", [{"text": "{{ messages[0].content }}"}, {"stop_ids": frozenset({7})}])
def test_another_template_or_stop_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    template_of = served.template_of

    def other(place: Any) -> Any:
        template = template_of(place)
        for key, value in change.items():
            object.__setattr__(template, key, value)
        return template

    monkeypatch.setattr(served, "template_of", other)
    with pytest.raises(CheckFailedError, match=r"another chat template|stop token"):
        start(run)


def test_a_run_folder_that_cannot_be_written_is_served(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, value: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(replaying, "write_json", refused)
    said: list[str] = []
    open_models(
        [str(run)], dtype=torch.float32, precision="auto", limits=Limits(), base=False, say=said.append, threads=1
    )
    assert any("done again at the next start" in line for line in said)


def test_streams_side_by_side_get_what_each_gets_alone(run: Path) -> None:
    models = open_models(
        [f"tuned={run}"], dtype=torch.float32, precision="auto", limits=Limits(), base=False, say=print, threads=1
    )
    runner: Any = models["tuned"].engine.runner
    questions = [(tuple(range(5, 30)), 10), ((9, 8, 7), 0), (tuple(range(40, 60)), 19)]
    together = replaying.as_streams(runner, "tuned", questions)
    for ids, start in questions:
        state = runner.begin(None, 0)
        rows = [runner.forward([replaying.Chunk(state, [i], "tuned")])[0] for i in ids]
        torch.testing.assert_close(together[ids, start], torch.stack(rows)[start:], atol=2e-5, rtol=1e-4)
