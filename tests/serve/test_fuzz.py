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
    assert statuses.get(200, 0) > 2  # some are right by chance, so the others are refused for a reason


TASK: dict[str, Any] = {
    "model": "classify",
    "input": "blue sky",
    "user": "x",
    "truncate": True,
    "encoding_format": "float",
}
TASK_ODD = [
    *ODD, {"text": "a"}, {"text": "a", "text_pair": 5}, [{"text": ""}, "b"], {"question": "who", "context": "ada"},
    [{"question": "", "context": " "}], [["ada", "went"]], [[""], "x"], [[10**9]], [[-5]], ["a"] * 3000, "word " * 2000,
    [5.5], [[1.0]], "classify", "several", "score", "verbalised", "tag", "extract", "text", "vectors", "base64", "\u200b",
]  # fmt: skip


def test_2000_malformed_bodies_for_tasks(tasks: Any) -> None:
    generator = random.Random(2)
    names = {"classify": ("classify", "several", "score", "verbalised"), "tag": ("tag",), "extract": ("extract",),
             "embeddings": ("vectors", "text")}  # fmt: skip
    statuses: dict[int, int] = {}
    with tasks.client(connection="close") as client:
        for number in range(2000):
            route = list(names)[number % 4]
            body = {key: value for key, value in TASK.items() if generator.random() < 0.5}
            body |= {"model": generator.choice(names[route]), "input": generator.choice(TASK_ODD)}
            if generator.random() < 0.6:
                body[generator.choice(sorted(TASK))] = generator.choice(TASK_ODD)
            content = json.dumps(body).encode()
            if generator.random() < 0.1:
                at = generator.randrange(len(content))
                content = [content[:at], content[:at] + b"\xff" + content[at:], content * 2][number % 3]
            answer = client.post(f"/v1/{route}", content=content, headers={"content-type": "application/json"})
            assert answer.status_code < 500, (route, content[:300], answer.text[:300])
            shaped(answer)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
    assert statuses[400] > 1000
    assert statuses[200] > 50


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/classify", "/v1/tag", "/v1/extract"])
def test_the_description_of_task_routes_holds(tasks: Any, path: str) -> None:
    """Right and wrong requests as schemathesis draws them, for a model that does the task: no 5xx, described answers."""
    operation = schemathesis.openapi.from_url(f"{tasks.url}/openapi.json")[path]["post"]
    name = {"/v1/embeddings": "vectors"}.get(path, path.removeprefix("/v1/"))

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = name
        answer = case.call()
        assert answer.status_code < 500
        if answer.status_code == 200:
            operation.validate_response(answer)

    check()


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
