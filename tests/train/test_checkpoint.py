"""The checkpoint store under faults: whatever operation fails and however, a complete checkpoint is loaded."""

import builtins
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.errors import OutputError
from tutelage.train import checkpoint


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"master.w": torch.full((8, 8), float(step)), "exp_avg.w": torch.arange(64.0) * step}


def save(store: Path, step: int, keep: set[int]) -> None:
    checkpoint.save(store, step, {"step": step}, tensors(step), keep)


def refusal(store: Path) -> str | None:
    """What saving step 2 says, if it fails."""
    try:
        save(store, 2, {2})
    except OutputError as error:
        return str(error)
    return None


class Faults:
    """Counts file operations of the store and makes one of them fail, before or after half of its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
        self.count, self.failing, self.error, self.store = 0, -1, OSError(28, "No space left on device"), store
        real_open = builtins.open
        for module, name in ((os, "rename"), (os, "fsync"), (os, "mkdir"), (Path, "mkdir"), (shutil, "rmtree")):
            monkeypatch.setattr(module, name, self.wrapped(getattr(module, name)))

        def opened(path: Any, *arguments: Any, **named: Any) -> Any:
            if str(path).startswith(str(store)) and arguments[:1] == ("wb",):
                self.tick(lambda: Path(path).touch())
            return real_open(path, *arguments, **named)

        monkeypatch.setattr(builtins, "open", opened)

    def wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **named: Any) -> Any:
            if not named.get("ignore_errors"):  # shutil swallows those itself
                self.tick(lambda: None)
            return real(*arguments, **named)

        return operation

    def tick(self, half: Callable[[], None]) -> None:
        self.count += 1
        if self.count == self.failing:
            half()
            raise self.error


@pytest.mark.parametrize("error", [28, 5], ids=["disk full", "input/output error"])
def test_a_fault_at_any_operation_leaves_a_complete_checkpoint(error: int, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, tmp_path)
        save(tmp_path / "count", 1, {1})
        operations = faults.count
    assert operations >= 8
    refused = 0
    for failing in range(1, operations + 1):
        store = tmp_path / f"fault-{failing}"
        save(store, 1, {1})
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, tmp_path)
            faults.failing, faults.error = failing, OSError(error, os.strerror(error))
            said = refusal(store)
        if said is not None:
            refused += 1
            assert str(store) in said
            assert ("disk is full" in said) == (error == 28)
        found, skipped = checkpoint.newest(store)
        assert found is not None
        assert found.step in (1, 2)
        assert not skipped
        assert torch.equal(found.tensors["master.w"], tensors(found.step)["master.w"])
        save(store, 3, {3})
        assert [path.name for path in store.iterdir()] == ["step-00000003"]
    assert refused >= 6


def test_saving_a_step_again_never_leaves_none(tmp_path: Path) -> None:
    """After a resume a run may save where it stands, and with `keep: 1` that checkpoint is the only one."""
    for damaged in (False, True):
        for failing in range(1, 30):
            store = tmp_path / f"{damaged}-{failing}"
            save(store, 1, {1, 2})
            save(store, 2, {1, 2})
            if damaged:
                (store / "step-00000002" / checkpoint.STATE).write_bytes(b"{}")
            else:
                shutil.rmtree(store / "step-00000001")
            with pytest.MonkeyPatch.context() as patch:
                faults = Faults(patch, tmp_path)
                faults.failing = failing
                said = refusal(store)
            found, _ = checkpoint.newest(store)
            assert found is not None
            assert found.step in ((1, 2) if damaged and said else (2,))
            if said is None:
                assert checkpoint.newest(store)[1] == ()
                assert not list(store.glob(".step-*.tmp"))
            if faults.count < failing:
                break
        else:
            pytest.fail("the save never came to its end")


def test_every_flipped_bit_is_noticed_and_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    save(tmp_path, 1, {1, 2})
    save(tmp_path, 2, {1, 2})
    rng = random.Random(0)
    files = sorted((tmp_path / "step-00000002").iterdir())
    for _ in range(300):
        path = rng.choice(files)
        data = path.read_bytes()
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
        found, skipped = checkpoint.newest(tmp_path)
        path.write_bytes(data)
        assert found is not None
        assert found.step == 1
        assert len(skipped) == 1
        assert "step-00000002 was passed over" in skipped[0]


@pytest.mark.parametrize("name", [checkpoint.MANIFEST, checkpoint.STATE, checkpoint.TENSORS])
@pytest.mark.parametrize("kept", [0, 1, 9, None], ids=["empty", "one byte", "torn", "gone"])
def test_a_torn_file_is_passed_over(name: str, kept: int | None, tmp_path: Path) -> None:
    save(tmp_path, 1, {1, 2})
    save(tmp_path, 2, {1, 2})
    path = tmp_path / "step-00000002" / name
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:kept])
    found, skipped = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found.step, len(skipped)) == (1, 1)


def test_a_renamed_checkpoint_does_not_pass_for_another_step(tmp_path: Path) -> None:
    save(tmp_path, 1, {1})
    (tmp_path / "step-00000001").rename(tmp_path / "step-00000009")
    assert checkpoint.newest(tmp_path)[0] is None


def test_old_checkpoints_go_only_after_the_new_one_stands_and_the_named_ones_stay(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, {2, step - 1, step})
    assert list(checkpoint.steps(tmp_path)) == [2, 4, 5]


def test_no_pickle_is_written(tmp_path: Path) -> None:
    save(tmp_path, 1, {1})
    names = {path.name for path in (tmp_path / "step-00000001").iterdir()}
    assert names == {"manifest.json", "state.json", "tensors.safetensors"}
