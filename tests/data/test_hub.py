"""Data sets by hub id, from a hub on loopback that speaks the real client's protocol."""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tutelage.data.datasets import parse_dataset
from tutelage.data.hub import files_of_split
from tutelage.errors import DataError

COMMIT = "7" * 40


def parquet(first: int, last: int) -> bytes:
    out = io.BytesIO()
    rows = [{"prompt": f"What is {i}?", "response": f"It is {i}."} for i in range(first, last)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


class Hub(BaseHTTPRequestHandler):
    """Repositories of data sets, and the paths that were asked for."""

    files: dict[str, dict[str, bytes]]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        headers = {"X-Repo-Commit": COMMIT}
        status, data = 404, b""
        for repo, files in self.files.items():
            if path.startswith(f"/api/datasets/{repo}/tree/"):
                status, data = (
                    200,
                    json.dumps(
                        [{"type": "file", "path": n, "size": len(d), "oid": n} for n, d in files.items()]
                    ).encode(),
                )
            elif path.startswith(f"/api/datasets/{repo}"):
                siblings = [{"rfilename": name} for name in files]
                status, data = 200, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
            elif (name := path.removeprefix(f"/datasets/{repo}/resolve/{COMMIT}/")) in files:
                status, data, headers["ETag"] = 200, files[name], f'"{hash(name)}"'
        if status == 404:
            headers["X-Error-Code"] = "RepoNotFound"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    files = {
        "org/pairs": {
            "data/train-00000-of-00002.parquet": parquet(0, 30), "data/train-00001-of-00002.parquet": parquet(30, 50),
            "data/test-00000-of-00001.parquet": parquet(90, 95), "pairs.py": b"raise SystemExit", "README.md": b"#",
        },
        "org/script": {"script.py": b"raise SystemExit", "dataset_infos.json": b"{}"},
        "databricks/databricks-dolly-15k": {
            "databricks-dolly-15k.jsonl": json.dumps(
                {"instruction": "Name a fish.", "context": "", "response": "Cod.", "category": "open_qa"}
            ).encode(),
        },
    }  # fmt: skip
    handler = type("OneHub", (Hub,), {"files": files, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


FROM_HUB = """
import json, sys
from tutelage.data.sources import files, read
from tutelage.errors import TutelageError
for path in sys.argv[1:]:
    try:
        print(json.dumps([row for file in files(path) for _, row in read(file)]))
    except TutelageError as error:
        print(json.dumps([type(error).__name__, str(error)]))
assert "torch" not in sys.modules
"""


def rows_of(paths: list[str], address: str, cache: Path) -> list[list[dict[str, str] | str]]:
    # A process of its own, as the hub's client reads its settings when it is imported.
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "TUTELAGE_CACHE": str(cache)}
    environment |= {"HF_HOME": str(cache.parent / "hf"), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", FROM_HUB, *paths]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_splits_and_slices_are_fetched_once(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    address, handler = hub
    given = [
        "hub:org/pairs",
        "hub:org/pairs:train[:10%]",
        "hub:org/pairs:train[25:32]",
        "hub:org/pairs:test",
        "dolly-15k",
    ]
    fetched = rows_of(given, address, tmp_path / "cache")
    whole, tenth, middle, test, dolly = fetched
    assert [row["prompt"] for row in whole] == [f"What is {i}?" for i in range(50)]  # type: ignore[index]
    assert (tenth, middle, len(test)) == (whole[:5], whole[25:32], 5)
    assert dolly == [{"instruction": "Name a fish.", "context": "", "response": "Cod.", "category": "open_qa"}]
    assert not [path for path in handler.asked if path.endswith(".py")]
    handler.asked.clear()
    assert rows_of(given, address, tmp_path / "cache") == [whole, tenth, middle, test, dolly]
    assert handler.asked == []


def test_what_cannot_be_fetched_is_a_sentence(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    given = ["hub:org/script", "hub:org/none", "hub:org/pairs:validation", "hub:org/pairs:train[60:70]"]
    script, none, split, empty = rows_of(given, hub[0], tmp_path / "cache")
    assert script[0] == split[0] == empty[0] == "DataError"
    assert "a data set that is a script is not run" in script[1]
    assert (none[0], "no such data set" in none[1]) == ("HubError", True)
    assert "no split `validation`" in split[1]
    assert "the split has 50" in empty[1]
    assert not list((tmp_path / "cache").rglob(".*"))
    unreachable = rows_of(["hub:org/pairs"], "http://127.0.0.1:9", tmp_path / "other")[0]
    assert (unreachable[0], "the hub does not answer" in unreachable[1]) == ("HubError", True)


def test_a_split_is_told_by_names() -> None:
    def chosen(path: str, *names: str) -> list[str]:
        return files_of_split(list(names), parse_dataset(path), path)

    assert chosen("hub:o/s", "all.json", "a.jsonl", "b.jsonl.gz", "x.py") == ["a.jsonl", "b.jsonl.gz"]
    assert chosen("hub:o/s:test", "default/train/0.parquet", "default/test/0.parquet") == ["default/test/0.parquet"]
    assert chosen("hub:o/s/de", "de/train/0.parquet", "en/train/0.parquet") == ["de/train/0.parquet"]
    assert chosen("hub:o/s", "../train.jsonl", "train.jsonl", "train*.jsonl") == ["train.jsonl"]
    with pytest.raises(DataError, match="several folders"):
        chosen("hub:o/s", "de/train/0.parquet", "en/train/0.parquet")
    with pytest.raises(DataError, match="no split `train`"):
        chosen("hub:o/s", "test.jsonl")
