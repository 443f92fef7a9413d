"""Pushing to a hub that runs here: what it is told, what it gets, and what is never sent."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tutelage
from tutelage.errors import OutputError, UsageError


class Hub(ThreadingHTTPServer):
    """As much of a hub as an upload needs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, bool] = {}  # name → private
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.refuses = False


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: Any) -> None:
        """Silent."""

    def answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        name = "/".join(self.path.split("?")[0].split("/")[3:5])
        if name not in self.server.repositories:
            return self.answer({"error": "not found"}, 404)
        self.answer(
            {"id": name, "private": self.server.repositories[name], "sha": "0" * 40, "siblings": [], "tags": []}
        )

    def do_POST(self) -> None:
        length = self.headers.get("content-length")
        data = self.rfile.read(int(length)) if length else self._chunks()
        self.server.tokens.add(self.headers.get("authorization", ""))
        if self.server.refuses:
            return self.answer({"error": "no write access"}, 403)
        if self.path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked.get('organization')}/{asked['name']}"
            if name in self.server.repositories:
                return self.answer({"error": "it exists", "url": f"http://127.0.0.1/{name}"}, 409)
            self.server.repositories[name] = (
                asked["private"] if "private" in asked else asked["visibility"] == "private"
            )
            return self.answer({"url": f"http://127.0.0.1:{self.server.server_port}/{name}"})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(data)["files"]
            ]
            return self.answer({"files": files})
        if "/commit/" in self.path:
            for line in data.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    self.server.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            oid = "1" * 40
            return self.answer(
                {
                    "success": True,
                    "commitOid": oid,
                    "commitUrl": f"http://127.0.0.1/acme/teacher/commit/{oid}",
                    "hookOutput": "",
                }
            )
        return self.answer({})

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        return found


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def artefact(lora_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("push") / "out"
    tutelage.export(str(lora_run), to="peft", out=str(out), prompts=2, max_tokens=2, texts=5)
    return out


def push(hub: Hub, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: where a hub is, its client reads once."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_x",
    }
    command = [sys.executable, "-m", "tutelage", "push", *arguments, "--json"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_an_export_goes_to_a_private_repository(hub: Hub, artefact: Path) -> None:
    (artefact / "notes.txt").write_text("mine")  # not of the export
    done = push(hub, str(artefact), "acme/teacher", "--base", "acme/base")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["private"] is True
    assert hub.repositories == {"acme/teacher": True}
    sent = {path.name for path in artefact.iterdir()} - {"notes.txt"}
    assert set(hub.files) == sent
    assert hub.files["adapter_model.safetensors"] == (artefact / "adapter_model.safetensors").read_bytes()
    assert hub.tokens == {"Bearer hf_x"}
    named, own = (
        json.loads(text) for text in (hub.files["adapter_config.json"], (artefact / "adapter_config.json").read_text())
    )
    assert Path(own["base_model_name_or_path"]).is_dir()  # here it is found, and nowhere else
    assert named == {**own, "base_model_name_or_path": "acme/base"}


def test_a_public_repository_is_refused_unless_wanted(hub: Hub, artefact: Path) -> None:
    hub.repositories["acme/teacher"] = False
    done = push(hub, str(artefact), "acme/teacher", "--base", "acme/base")
    assert done.returncode == 2
    assert "published" in done.stderr
    assert hub.files == {}
    assert push(hub, str(artefact), "acme/teacher", "--base", "acme/base", "--public").returncode == 0
    assert hub.files


def test_a_refusal_is_a_sentence(hub: Hub, artefact: Path) -> None:
    hub.refuses = True
    done = push(hub, str(artefact), "acme/teacher", "--base", "acme/base")
    assert done.returncode == 69
    assert "hf auth login" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_finished_exports_are_pushed(tmp_path: Path, artefact: Path) -> None:
    with pytest.raises(OutputError, match="not a finished export"):
        tutelage.push(str(tmp_path), "acme/teacher")
    with pytest.raises(UsageError, match="not a repository"):
        tutelage.push(str(artefact), "../teacher")


def test_an_adapter_that_only_this_machine_could_load_is_refused(artefact: Path) -> None:
    with pytest.raises(UsageError, match="nobody else could load this adapter") as caught:
        tutelage.push(str(artefact), "acme/teacher")
    assert "--base org/name" in caught.value.problems[0].fix
    with pytest.raises(UsageError, match="`here` is no hub id"):
        tutelage.push(str(artefact), "acme/teacher", base="here")
