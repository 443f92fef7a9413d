"""The store: rows come back bit for bit, once written; damage, other content and full disks do not go unnoticed."""

import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tutelage.data.types import At, Conversation, Message
from tutelage.encode import store
from tutelage.encode.encoder import CHUNK, Encoder
from tutelage.encode.rows import Columns, Rows, pack
from tutelage.encode.store import ARRAYS, MANIFEST, Stored, key_of, open_store, store_root
from tutelage.encode.template import Template

Templates = Callable[..., Template]
TASK = {"system": None, "train_on": "all"}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_ENCODED", str(tmp_path / "encoded"))
    return tmp_path / "encoded"


def conversations(count: int) -> list[Conversation]:
    return [
        Conversation(
            (
                Message("user", f"What is {i}?"),
                Message("assistant", f"A number. {i} " * (1 + i % 3), weight=0.5 if i % 2 else None),
            ),
            At(f"{'ab'[i % 2]}.jsonl", i + 1),
        )
        for i in range(count)
    ]  # fmt: skip


class Encoding:
    """Encodes rows, and counts how often it is asked to."""

    def __init__(self, template: Template, rows: list[Conversation]) -> None:
        self.template, self.rows, self.times = template, rows, 0

    def __call__(self) -> Iterator[Columns]:
        self.times += 1
        return Encoder(self.template).columns(self.rows)


def assert_rows(stored: Stored, template: Template, rows: list[Conversation]) -> None:
    plain = template.encode(rows)
    assert len(stored.rows) == len(plain)
    for ours, theirs in zip(stored.rows, plain):
        assert ours.at == theirs.at
        assert (ours.ids.tolist(), ours.weights.tolist()) == (theirs.ids.tolist(), theirs.weights.tolist())
        assert ours.roles.tolist() == theirs.roles.tolist()


def mapped(rows: Rows) -> bool:
    array = rows.columns.ids
    return not array.flags.owndata and not array.flags.writeable and isinstance(array.base, np.memmap | mmap.mmap)


def test_rows_come_back_as_they_were_and_are_encoded_once(template_of: Templates, root: Path) -> None:
    rows = conversations(CHUNK + 20)
    encoding = Encoding(template_of(), rows)
    first = open_store("k", encoding, print)
    second = open_store("k", encoding, print)
    assert encoding.times == 1
    assert (first.reused, second.reused) == (False, True)
    assert first.sha256 == second.sha256
    for stored in (first, second):
        assert_rows(stored, template_of(), rows)
        assert mapped(stored.rows)
    assert sorted(path.name for path in (root / "k").iterdir()) == sorted([*ARRAYS, MANIFEST])
    assert [path.name for path in root.iterdir()] == ["k"]  # no workspace is left


def test_each_part_of_what_decides_the_tokens_changes_the_key(template_of: Templates) -> None:
    template = template_of()
    keys = [
        key_of(template, TASK, "data"), key_of(template, TASK, "other data"),
        key_of(template, {**TASK, "train_on": "last"}, "data"),
        key_of(template_of("llama3"), TASK, "data"), key_of(template_of("chatml", template.text + "x"), TASK, "data"),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key_of(template, TASK, "data") == keys[0]


def test_a_template_with_the_date_is_encoded_again_each_day(
    template_of: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = template_of("chatml", template_of().text + "{% if false %}{{ strftime_now('%d %b %Y') }}{% endif %}")
    for template, same in ((dated, False), (template_of(), True)):
        keys = []
        for day in ("2026-01-01", "2026-01-02"):
            monkeypatch.setattr(store.time, "strftime", lambda form, day=day: day)
            keys.append(key_of(template, TASK, "data"))
        assert (keys[0] == keys[1]) == same


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, lambda path: os.truncate(path, path.stat().st_size // 2), os.unlink])
@pytest.mark.parametrize("name", [*ARRAYS, MANIFEST])
def test_a_damaged_store_is_built_again(
    name: str, damage: Callable[[Path], None], template_of: Templates, root: Path
) -> None:
    encoding = Encoding(template_of(), conversations(9))
    whole = open_store("k", encoding, print)
    damage(root / "k" / name)
    again = open_store("k", encoding, print)
    assert encoding.times == 2
    assert again.sha256 == whole.sha256
    assert_rows(again, template_of(), encoding.rows)
    assert open_store("k", encoding, print).reused


def test_an_interrupted_build_leaves_nothing_that_is_taken_for_a_store(template_of: Templates, root: Path) -> None:
    def stopped() -> Iterator[Columns]:
        yield pack(template_of().encode(conversations(3)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store("k", stopped, print)
    assert list(root.iterdir()) == []
    assert not open_store("k", Encoding(template_of(), conversations(3)), print).reused


def test_where_the_cache_cannot_be_written_the_run_goes_on_and_says_so(template_of: Templates, root: Path) -> None:
    root.write_text("a file where the folder should be")
    said: list[str] = []
    rows = conversations(9)
    stored = open_store("k", Encoding(template_of(), rows), said.append)
    assert not stored.reused
    assert mapped(stored.rows)
    assert_rows(stored, template_of(), rows)
    assert len(said) == 1
    assert str(root) in said[0]


def test_the_least_recently_used_stores_make_room(
    template_of: Templates, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = Encoding(template_of(), conversations(9))
    for age, key in ((30, "old"), (20, "older but used"), (10, "new")):
        open_store(key, encoding, print)
        os.utime(root / key, (age, age))
    os.utime(root / "older but used", (100, 100))
    size = sum(path.stat().st_size for path in (root / "new").iterdir())
    monkeypatch.setattr(store, "MOST_BYTES", 2 * size)
    kept = open_store("newest", encoding, print)
    assert sorted(path.name for path in root.iterdir()) == ["newest", "older but used"]
    assert_rows(kept, template_of(), encoding.rows)


def test_rows_stay_when_their_store_is_removed(template_of: Templates, root: Path) -> None:
    rows = conversations(9)
    stored = open_store("k", Encoding(template_of(), rows), print)
    shutil.rmtree(root)
    assert_rows(stored, template_of(), rows)


def test_no_rows_are_a_store_too(template_of: Templates) -> None:
    stored = open_store("k", Encoding(template_of(), []), print)
    assert len(stored.rows) == 0
    assert open_store("k", Encoding(template_of(), []), print).reused


def test_the_folder_is_beside_the_models_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert store_root() == tmp_path / "encoded"
    monkeypatch.delenv("TUTELAGE_ENCODED")
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "models"))
    assert store_root() == tmp_path / "models" / ".encoded"
    monkeypatch.delenv("TUTELAGE_CACHE")
    assert store_root() == Path.home() / ".cache" / "tutelage" / "encoded"


def test_manifests_hold_plain_json(template_of: Templates, root: Path) -> None:
    open_store("k", Encoding(template_of(), conversations(4)), print)
    manifest = json.loads((root / "k" / MANIFEST).read_text())
    assert manifest["names"] == ["a.jsonl", "b.jsonl"]
    assert set(manifest["files"]) == set(ARRAYS)
