"""Thousands of bodies that no client means: never a 5xx, always OpenAI's shape of error."""

import json
import random
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

VALID: dict[str, Any] = {
    "model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "temperature": 0.5,
    "top_p": 0.9, "n": 1, "seed": 3,
    "stop": ["x"], "stream": False, "logprobs": True, "top_logprobs": 2, "response_format": {"type": "text"}, "prompt": "Hi",
}  # fmt: skip
ODD = [
    None, True, -1, 0, 2**31, 2**63, 10**30, 1e308, -0.5, "", "x", "\x00", "\ud800", "😀" * 50, [], [[]], [None],
    {}, {"a": 1}, [1, 2], ["a", 1],
    [{"role": "user"}], [{"role": "root", "content": "x"}], [{"role": "user", "content": [{"type": "image_url"}]}], "base", [10**6],
    [{"role": "assistant", "content": None}], [{"role": "tool", "content": ""}], {"type": "json_object"}, {"type": "json_schema"},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}, [[5], [6, 7]], [-1],
]  # fmt: skip


def shaped(answer: httpx.Response) -> None:
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)


def test_2000_malformed_bodies(running: Any) -> None:
    generator = random.Random(1)
    statuses: dict[int, int] = {}
    with running.client(connection="close") as client:
        for number in range(2000):
            body = {key: value for key, value in VALID.items() if generator.random() < 0.8}
            for key in generator.sample(sorted(VALID), generator.randint(1, 3)):
                body[key] = generator.choice(ODD)
            content = json.dumps(body).encode()
            kind = generator.random()
            if kind < 0.2:  # torn, flipped or doubled bytes
                at = generator.randrange(len(content))
                content = [content[:at], content[:at] + b"\xff" + content[at:], content * 2][number % 3]
            elif kind < 0.25:
                content = [b"", b"[" * 100_000, b"null", b'{"a":' * 5000, b"1" * 6000, b"\xef\xbb\xbf{}"][number % 6]
            path = ("/v1/chat/completions", "/v1/completions")[number % 2]
            answer = client.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code < 500, (path, content[:300], answer.text[:300])
            shaped(answer)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
    assert statuses[400] > 1000
    assert statuses.get(200, 0) > 5  # some are right by chance, so the others are refused for a reason


@pytest.mark.parametrize("path, method", [
    ("/health", "get"), ("/metrics", "get"), ("/v1/models", "get"), ("/v1/models/{name}", "get"),
    ("/v1/chat/completions", "post"), ("/v1/completions", "post"),
])  # fmt: skip
def test_the_description_holds(running: Any, path: str, method: str) -> None:
    """schemathesis draws requests from the description, right and wrong ones: none is answered with a 5xx."""
    operation = schemathesis.openapi.from_url(f"{running.url}/openapi.json")[path][method]

    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("max_tokens"), int):
            case.body["max_tokens"] = min(case.body["max_tokens"], 4)
        assert case.call().status_code < 500

    check()
