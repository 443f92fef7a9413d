"""The judge, against a server on this machine that speaks HTTP and prefers what the test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tutelage.cli import main
from tutelage.errors import HubError, UsageError
from tutelage.evaluate import judge as module
from tutelage.evaluate.judge import judge, said_in, summed
from tutelage.metrics import Prediction


class Server(ThreadingHTTPServer):
    """Answers with `opinion(answer A, answer B)`, after `failures` refusals with `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.opinion: Callable[[str, str], str] = lambda first, second: "TIE"
        self.failures, self.status = 0, 503
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append({"path": self.path, **body})
        self.server.keys.append(self.headers.get("Authorization"))
        if self.server.failures:
            self.server.failures -= 1
            self.reply(self.server.status, {"error": {"message": "not now"}})
            return
        text = body["messages"][-1]["content"]
        first = text.partition("[Answer A]\n")[2].partition("\n\n[Answer B]")[0]
        second = text.partition("[Answer B]\n")[2].partition("\n\n[Which")[0]
        content = self.server.opinion(first, second)
        self.reply(
            200, {"choices": [{"message": {"role": "assistant", "content": content}}]} if content != "odd" else {}
        )

    def reply(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "WAIT", 0.01)
    monkeypatch.delenv(module.KEY, raising=False)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


@pytest.fixture
def pairs(row: Callable[..., Prediction]) -> tuple[list[Prediction], list[Prediction]]:
    first = [row(i, f"question {i}", "right", "poor") for i in range(1, 11)]
    return first, [row(i, f"question {i}", "right", "good" if i < 10 else "poor") for i in range(1, 11)]


def prefers_good(first: str, second: str) -> str:
    return "TIE" if first == second else "I compared both.\nA" if first == "good" else "I compared both.\nB"


def test_the_better_system_wins_in_both_orders(server: Server, pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.KEY, "a-key")
    server.opinion = prefers_good
    found = judge(*pairs, url=address(server), model="judge-1")
    assert (found.wins, found.ties, found.losses, found.unread) == (9, 1, 0, 0)
    assert found.win_rate.value == pytest.approx(0.95)
    assert found.agreement.value == 1.0
    assert found.verdict == "better"
    assert len(server.seen) == 20
    assert {(one["path"], one["model"], one["temperature"]) for one in server.seen} == {
        ("/v1/chat/completions", "judge-1", 0)
    }
    asked = server.seen[0]["messages"][-1]["content"]
    assert "[Request]\nquestion 1\n" in asked
    assert "about, or follows" not in asked
    assert set(server.keys) == {"Bearer a-key"}
    assert found.rows[0]["said"] == ["B", "A"]
    assert judge(*reversed(pairs), url=address(server), model="judge-1").verdict == "worse"


def test_a_judge_that_sees_places_only_decides_nothing(server: Server, pairs: Any) -> None:
    server.opinion = lambda first, second: "A"
    found = judge(*pairs, url=address(server), model="judge-1")
    assert (found.wins, found.ties, found.losses) == (0, 10, 0)
    assert found.first_place == 10
    assert found.agreement.value == 0.0
    assert found.verdict == "cannot tell"


def test_what_passes_is_tried_again_and_what_does_not_is_said(server: Server, pairs: Any) -> None:
    server.opinion, server.failures = prefers_good, 2
    assert judge(*pairs, url=address(server), model="judge-1").wins == 9
    server.failures, server.status, server.seen = 9, 401, []
    with pytest.raises(HubError, match="HTTP 401"):
        judge(*pairs, url=address(server), model="judge-1")
    assert len(server.seen) == 1
    server.failures, server.opinion = 0, lambda first, second: "odd"
    with pytest.raises(HubError, match="no chat completion"):
        judge(*pairs, url=address(server), model="judge-1")
    with pytest.raises(HubError, match="does not answer"):
        judge(*pairs, url="http://127.0.0.1:9/v1", model="judge-1")
    with pytest.raises(UsageError, match="no address"):
        judge(*pairs, url="localhost", model="judge-1")


def test_rows_without_a_verdict_are_counted_and_used_nowhere(pairs: Any) -> None:
    found = summed("j", *pairs, [("", "B"), ("B", ""), *[("B", "A")] * 7, ("A", "A")])
    assert (found.wins, found.ties, found.unread, found.win_rate.n) == (7, 1, 2, 8)
    with pytest.raises(HubError, match="no verdict"):
        summed("j", *pairs, [("", "")] * 10)


@pytest.mark.parametrize(
    "reply, said",
    [
        ("A", "A"),
        ("b.", "B"),
        ("Both are fine.\n**TIE**", "TIE"),
        ("A is longer than B.", ""),
        ("I prefer A\n\nB\n", "B"),
        ("", ""),
    ],
)
def test_the_last_line_counts(reply: str, said: str) -> None:
    assert said_in(reply) == said


def test_compare_asks_the_judge(server: Server, model_folder: Any, chat_file: Any, tmp_path: Path, capsys: Any) -> None:
    server.opinion = lambda first, second: "TIE"
    words = [
        "compare",
        str(model_folder("llama")),
        str(model_folder("mistral")),
        "--data",
        str(chat_file(4)),
        "--max-tokens",
        "3",
    ]
    words += ["--skip-forgetting", "--out", str(tmp_path / "out"), "--judge", address(server)]
    assert main(words) == 2
    assert "--judge-model NAME" in capsys.readouterr().err
    assert main([*words, "--judge-model", "judge-1", "--task", "classify"]) == 2
    assert "nothing to judge" in capsys.readouterr().err
    assert main([*words, "--judge-model", "judge-1"]) == 0
    shown = capsys.readouterr().out
    assert "judge-1: the second is not told from the first" in shown
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["judge"]
    assert (found["ties"], found["agreement"]["value"]) == (4, 1.0)
    assert len(Path(found["rows"]).read_text().splitlines()) == 4


def test_the_judge_reads_what_the_request_follows(server: Server, row: Callable[..., Prediction]) -> None:
    one, two = (row(1, "And then?", "right", text, context="user: First?\n\nassistant: This.") for text in ("a", "b"))
    judge([one], [two], url=address(server), model="m")
    asked = server.seen[0]["messages"][-1]["content"]
    assert asked.index("user: First?\n\nassistant: This.") < asked.index("[Request]\nAnd then?")
