"""What reaches the routes: keys, Host and Origin, sizes, and hundreds of hostile paths and headers."""

import itertools
import json
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tutelage.errors import UsageError
from tutelage.serve.guard import COOKIE, host_name, is_loopback
from tutelage.serve.running import settle

KEY = "a-key-of-the-tests"
ROUTES = [
    ("GET", "/"), ("GET", "/page.js"), ("GET", "/page.css"), ("GET", "/metrics"), ("GET", "/v1/models"), ("GET", "/v1/models/base"),
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("POST", "/v1/embeddings"), ("POST", "/v1/classify"),
    ("POST", "/v1/tag"), ("POST", "/v1/extract"), ("GET", "/openapi.json"), ("GET", "/nowhere"),
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]
BODY = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def locked(starting: Any, model_folder: Callable[[str], Path]) -> Iterator[Any]:
    running = starting([f"base={model_folder('llama')}"], key=KEY, body=4000)
    yield running
    running.stop()


@pytest.mark.parametrize("header", [
    {}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}, {"authorization": KEY}, {"authorization": "Bearer"},
    {"authorization": f"Bearer {KEY}x"}, {"cookie": f"{COOKIE}={KEY}"}, {"x-api-key": KEY}, {"cookie": f"{COOKIE}="},
])  # fmt: skip
def test_every_route_and_method_wants_the_key(locked: Any, header: dict[str, str]) -> None:
    with locked.client(**header) as client:
        for method, (_, path) in itertools.product(METHODS, ROUTES):
            answer = client.request(method, path)
            assert answer.status_code == 401, (method, path)
        assert client.get("/health").status_code == 200


def test_refusals_are_counted(locked: Any) -> None:
    def refused() -> int:
        with locked.client(authorization=f"Bearer {KEY}") as client:
            lines = client.get("/metrics").text.splitlines()
        line = next(
            (each for each in lines if each.startswith('tutelage_requests_total{route="refused",status="401"}')), "0"
        )
        return int(line.split()[-1])

    before = refused()
    with locked.client(authorization="Bearer wrong") as client:
        for _ in range(3):
            client.get("/v1/models")
    assert refused() == before + 3


def test_with_the_key_everything_is_there(locked: Any) -> None:
    with locked.client(authorization=f"Bearer {KEY}") as client:
        for method, path in ROUTES[:6]:
            assert client.request(method, path).status_code == 200, path
        assert client.post("/v1/chat/completions", json=BODY).status_code == 200
        assert client.get("/nowhere").json()["error"]["type"] == "not_found_error"
        assert client.delete("/v1/models").status_code == 405


def test_the_official_client_raises_its_own_error(locked: Any) -> None:
    client = openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_a_browser_gets_a_cookie_for_the_printed_address(locked: Any) -> None:
    with locked.client() as client:
        answer = client.get(f"/?key={KEY}")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert KEY not in cookie
        assert client.get("/").status_code == 200
        assert client.post("/v1/chat/completions", json=BODY).status_code == 200
        other = client.post("/v1/chat/completions", json=BODY, headers={"origin": "http://evil.example"})
        assert other.status_code == 403
        assert client.get("/v1/models?key=" + KEY, cookies={COOKIE: "x"}).status_code == 401  # nowhere but at /


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "169.254.169.254", "[::2]", "", "0"]
)
def test_other_names_are_dns_rebinding(running: Any, host: str) -> None:
    with running.client(host=host) as client:
        for path in ("/health", "/v1/models", "/"):
            assert client.get(path).status_code in (400, 403)


def test_pages_from_elsewhere_may_not_write(running: Any) -> None:
    own = f"http://{urlsplit(running.url).netloc}"
    with running.client() as client:
        for origin in (
            "http://evil.example",
            "null",
            "http://localhost:1",
            "https://127.0.0.1",
            "file://",
            own + ".evil.example",
        ):
            for method in ("POST", "DELETE", "PUT", "PATCH"):
                answer = client.request(method, "/v1/chat/completions", json=BODY, headers={"origin": origin})
                assert answer.status_code == 403, (origin, method)
        assert client.post("/v1/chat/completions", json=BODY, headers={"origin": own}).status_code == 200
        assert "access-control-allow-origin" not in client.get("/v1/models", headers={"origin": own}).headers


def test_a_body_may_not_be_too_large(locked: Any) -> None:
    large = {**BODY, "messages": [{"role": "user", "content": "x" * 5000}]}
    with locked.client(authorization=f"Bearer {KEY}") as client:
        assert client.post("/v1/chat/completions", json=large).status_code == 413

        def chunks() -> Iterator[bytes]:  # no Content-Length
            yield from (json.dumps(large).encode()[i : i + 100] for i in range(0, 5100, 100))

        answer = client.post("/v1/chat/completions", content=chunks(), headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"


def raw(url: str, data: bytes) -> bytes:
    """What the server answers to these bytes."""
    host, _, port = urlsplit(url).netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def test_400_hostile_paths_and_headers_get_nothing(running: Any) -> None:
    """Traversals, encodings, doubled and torn headers: no 5xx, no file, and the server is there afterwards."""
    generator = random.Random(0)
    parts = [
        "..",
        "%2e%2e",
        "..%2f",
        "..\\",
        "%5c..",
        "%00",
        "page.js",
        "etc/passwd",
        "v1",
        "models",
        "//",
        ";",
        "?",
        "#",
        "%",
        "%zz",
        "~",
        "C:",
    ]
    lines = [
        "Host: 127.0.0.1", "Host: evil.example", "Content-Length: -1", "Content-Length: 5", "Content-Length: 99999999999999999999",
        "Transfer-Encoding: chunked", "Transfer-Encoding: xchunked", "X: " + "a" * 9000, "Origin: \x00",
        "Cookie: tutelage_key=\xff",
        "Authorization: Bearer \xff\xfe", ": empty", "NoColon", "Expect: 100-continue", "Upgrade: websocket", "Connection: Upgrade",
    ]  # fmt: skip
    for _ in range(400):
        path = "/" + "/".join(generator.choices(parts, k=generator.randint(1, 5)))
        chosen = ["Host: 127.0.0.1", *generator.sample(lines, generator.randint(0, 3))]
        method = generator.choice(["GET", "POST", "PUT", "HEAD", "BREW", "get"])
        data = f"{method} {path} HTTP/1.1\r\n" + "\r\n".join(chosen) + "\r\nConnection: close\r\n\r\n"
        answer = raw(running.url, data.encode("latin-1"))
        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 400
        assert status < 500 or status == 501, data[:200]
        assert b"root:" not in answer
    assert httpx.get(f"{running.url}/health").status_code == 200


def test_every_answer_carries_the_safe_headers(running: Any) -> None:
    with running.client() as client:
        page = client.get("/")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "unsafe-inline" not in page.headers["content-security-policy"]
        for path in ("/", "/v1/models", "/nowhere"):
            assert client.get(path).headers["x-content-type-options"] == "nosniff"


def test_another_address_needs_a_key() -> None:
    assert settle("127.0.0.1", 1, None, ()).key is None
    assert settle("::1", 1, None, ()).key is None
    first, second = settle("0.0.0.0", 1, None, ()), settle("192.168.1.2", 1, None, ())
    assert first.key is not None
    assert second.key is not None
    assert len(first.key) >= 32
    assert first.key != second.key
    assert settle("0.0.0.0", 1, "long-enough", ()).key == "long-enough"
    with pytest.raises(UsageError, match="8 characters"):
        settle("0.0.0.0", 1, "short", ())


def test_names_and_addresses() -> None:
    assert [host_name(text) for text in ("LocalHost:80", "[::1]:8000", "::1", "example.org")] == [
        "localhost", "::1", "::1", "example.org",
    ]  # fmt: skip
    assert is_loopback("127.8.9.1")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("localhost.evil.example")
