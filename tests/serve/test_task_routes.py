"""The task routes over real HTTP: what evaluation predicts, characters that are right, and refusals in OpenAI's shape."""

import base64
import concurrent.futures
import json
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
import transformers

import tutelage
from tutelage.serve.limits import Limits
from tutelage.serve.opening import open_models
from tutelage.tasks.opening import open_for_task

TEXTS = ["lovely sky", "rain fell all night", "the parcel never came", "good sea and a light wind", "blue"]


def post(server: Any, path: str, **body: Any) -> Any:
    with server.client() as client:
        answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def predicted(run: Path, rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `tutelage evaluate` writes down for these rows."""
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = tutelage.evaluate(str(run), data=str(data), skip_forgetting=True, out=str(folder / "evaluated"))
    lines = Path(found["predictions"]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["classify", "several", "score", "verbalised"])
def test_labels_are_those_of_evaluation(tasks: Any, task_runs: dict[str, Path], name: str, tmp_path: Path) -> None:
    label = {"classify": "good", "verbalised": "good", "several": ["good"], "score": 0.5}[name]
    key = {"several": "labels", "score": "score"}.get(name, "label")
    expected = predicted(task_runs[name], [{"text": text, key: label} for text in TEXTS], tmp_path)
    answer = post(tasks, "/v1/classify", model=name, input=TEXTS)
    assert [item["index"] for item in answer["data"]] == list(range(len(TEXTS)))
    for item, one in zip(answer["data"], expected, strict=True):
        if name == "score":
            assert item["label"] is None
            assert item["score"] == pytest.approx(one["output"], abs=1e-5)
            continue
        given = item["labels"] if name == "several" else item["label"]
        assert given == one["output"]
        assert item["scores"] == pytest.approx(one["scores"], abs=1e-5)
        if name != "several":
            assert item["score"] == max(item["scores"].values())
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > len(TEXTS)


def test_the_model_knows_what_it_was_trained_on(tasks: Any) -> None:
    answer = post(tasks, "/v1/classify", model="classify", input="thanks for the help")
    assert answer["data"][0]["label"] == "good"
    assert answer["data"][0]["labels"] == ["good"]
    pair = post(tasks, "/v1/classify", model="classify", input={"text": "good sea", "text_pair": "bad harbour"})
    alone = post(tasks, "/v1/classify", model="classify", input="good sea")
    assert pair["data"][0]["scores"] != alone["data"][0]["scores"]
    assert pair["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"]


def test_tags_are_those_of_evaluation_and_stand_where_they_say(
    tasks: Any, task_runs: dict[str, Path], tmp_path: Path
) -> None:
    words = [["ada", "went", "to", "rome"], ["the", "sea", "in", "london", "by", "bob"], ["light"] * 200 + ["ada"]]
    rows = [{"tokens": found, "tags": ["O"] * len(found)} for found in words]
    expected = predicted(task_runs["tag"], rows, tmp_path)
    answer = post(tasks, "/v1/tag", model="tag", input=words)
    assert [item["tags"] for item in answer["data"]] == [one["output"] for one in expected]
    assert [(e["label"], e["text"], e["start"], e["end"]) for e in answer["data"][0]["entities"]] == [
        ("person", "ada", 0, 3), ("place", "rome", 12, 16),
    ]  # fmt: skip
    spaced, odd = " ada  went\tto\n rome", "😀 ada, went to (rome)!"
    answer = post(tasks, "/v1/tag", model="tag", input=[spaced, odd])
    found = [(e["label"], e["text"], e["start"]) for e in answer["data"][0]["entities"]]
    assert found == [("person", "ada", 1), ("place", "rome", 15)]
    for item, text in zip(answer["data"], (spaced, odd)):
        assert item["tags"] is None
        assert item["text"] == text
        for entity in item["entities"]:
            assert text[entity["start"] : entity["end"]] == entity["text"]
            assert 0 < entity["score"] <= 1
    assert post(tasks, "/v1/tag", model="tag", input=["  \n", "ada"])["data"][0]["entities"] == []


def test_answers_are_those_of_evaluation(tasks: Any, task_runs: dict[str, Path], tmp_path: Path) -> None:
    contexts = ["the bridge was built in 1890 by ada", "light " * 150 + "the bridge was built in 1912 by bob"]
    asked = [{"question": q, "context": c} for c in contexts for q in ("when was the bridge built", "who built it")]
    rows = [{**item, "answers": {"text": ["bridge"], "answer_start": [item["context"].index("bridge")]}}
            for item in asked]  # fmt: skip
    expected = predicted(task_runs["extract"], rows, tmp_path)
    answer = post(tasks, "/v1/extract", model="extract", input=asked)
    assert [item["answer"] for item in answer["data"]] == [one["output"] for one in expected]
    assert [item["answer"] for item in answer["data"][:2]] == ["1890", "ada"]
    for item, given in zip(answer["data"], asked):
        assert given["context"][item["start"] : item["end"]] == item["answer"]
        assert 0 < item["score"] <= 1
    single = post(tasks, "/v1/extract", model="extract", input=asked[0])
    assert single["data"][0]["answer"] == "1890"


def test_texts_are_those_of_evaluation(tasks: Any, task_runs: dict[str, Path], tmp_path: Path) -> None:
    """With the run's prefix, beams and most tokens; long and short ones side by side."""
    sources = ["ada in rome", "bob in london", "nobody was there " * 9, "bob in harbour"]
    expected = predicted(task_runs["seq2seq"], [{"source": text, "target": "rome"} for text in sources], tmp_path)
    answer = post(tasks, "/v1/seq2seq", model="seq2seq", input=sources)
    assert [item["text"] for item in answer["data"]] == [one["output"] for one in expected]
    assert [item["finish_reason"] for item in answer["data"]] == [one["ended"] for one in expected]
    assert answer["data"][0] == {"index": 0, "object": "text", "text": "rome ada", "finish_reason": "stop"}
    usage = answer["usage"]
    assert 4 * 24 >= usage["completion_tokens"] > 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert post(tasks, "/v1/seq2seq", model="seq2seq", input=sources[1])["data"][0]["text"] == expected[1]["output"]
    assert len(post(tasks, "/v1/seq2seq", model="pairs", input=sources)["data"]) == 4  # untuned: transformers' settings


def test_a_source_that_is_too_long_is_refused_or_cut(tasks: Any) -> None:
    long = {"model": "seq2seq", "input": ["ada in rome", "nobody was there " * 90]}
    with tasks.client() as client:
        refused = client.post("/v1/seq2seq", json=long)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input.1")
    assert "truncate: true" in error["message"]
    assert len(post(tasks, "/v1/seq2seq", **long, truncate=True)["data"]) == 2


def reference_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """As sentence-transformers computes all-MiniLM-L6-v2: the mean of the last hidden states, of length 1."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None].float()
    means: np.ndarray = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()
    return means


def test_the_official_client_gets_vectors(tasks: Any, encoder_folder: Path) -> None:
    client = openai.OpenAI(base_url=f"{tasks.url}/v1", api_key="any", max_retries=0)
    answer = client.embeddings.create(model="vectors", input=TEXTS)  # it asks for base64 by itself
    found = np.array([item.embedding for item in answer.data])
    np.testing.assert_allclose(found, reference_vectors(encoder_folder, TEXTS), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    plain = client.embeddings.create(model="vectors", input=TEXTS[1], encoding_format="float")
    np.testing.assert_allclose(plain.data[0].embedding, found[1], atol=1e-6)
    raw = post(tasks, "/v1/embeddings", model="vectors", input=TEXTS[1], encoding_format="base64")
    same = np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(same, found[1], atol=1e-6)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(encoder_folder)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    by_ids = client.embeddings.create(model="vectors", input=ids)
    np.testing.assert_allclose([item.embedding for item in by_ids.data], found, atol=1e-6)
    assert answer.usage.prompt_tokens == by_ids.usage.prompt_tokens == sum(map(len, ids))
    one = client.embeddings.create(model="vectors", input=ids[0])
    np.testing.assert_allclose(one.data[0].embedding, found[0], atol=1e-6)


def test_an_encoder_that_went_on_training_on_text_gives_other_vectors(tasks: Any, task_runs: dict[str, Path]) -> None:
    found = [post(tasks, "/v1/embeddings", model=name, input=TEXTS)["data"] for name in ("vectors", "text")]
    vectors = [np.array([item["embedding"] for item in data]) for data in found]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    opened = open_for_task(str(task_runs["text"]), precision="fp32")
    opened.backbone.model.set_attn_implementation("sdpa")
    ids = torch.tensor([opened.task.tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        states = opened.backbone.model.base_model(input_ids=ids).last_hidden_state[0]
    expected = torch.nn.functional.normalize(states.mean(0), dim=-1)
    np.testing.assert_allclose(vectors[1][0], expected, atol=2e-6)


LONG = "light wind " * 100


@pytest.mark.parametrize("path, body, words", [
    ("/v1/classify", {"model": "classify", "input": ["blue", LONG]}, "input 1 is longer than the 128 tokens"),
    ("/v1/classify", {"model": "verbalised", "input": "blue sky " * 300}, "input 0 is longer"),
    ("/v1/embeddings", {"model": "vectors", "input": LONG}, "input 0 is longer than the 130 tokens"),
    ("/v1/embeddings", {"model": "vectors", "input": [[5, 99_999]]}, "holds the token 99999"),
    ("/v1/extract", {"model": "extract", "input": {"question": LONG, "context": "a sea"}}, "leaves no room"),
    ("/v1/embeddings", {"model": "vectors", "input": ""}, ""), ("/v1/embeddings", {"model": "vectors", "input": []}, ""),
    ("/v1/embeddings", {"model": "vectors", "input": "a", "dimensions": 8}, "dimensions"),
    ("/v1/classify", {"model": "classify", "input": [["a", "b"]]}, ""), ("/v1/tag", {"model": "tag", "input": [[" "]]}, ""),
    ("/v1/classify", {"model": "classify", "input": "a", "typo": 1}, "typo"),
    ("/v1/classify", {"model": "classify", "input": "\ud800"}, ""), ("/v1/tag", {"model": "tag", "input": "a" * 70_000}, ""),
])  # fmt: skip
def test_what_cannot_be_answered_is_refused_in_openais_shape(
    tasks: Any, path: str, body: dict[str, Any], words: str
) -> None:
    with tasks.client() as client:
        answer = client.post(path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"] + str(error["param"])


def test_long_texts_are_cut_where_that_is_asked_for(tasks: Any, task_runs: dict[str, Path], tmp_path: Path) -> None:
    answer = post(tasks, "/v1/classify", model="classify", input=LONG, truncate=True)
    (expected,) = predicted(task_runs["classify"], [{"text": LONG, "label": "good"}], tmp_path)
    assert answer["data"][0]["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    assert answer["usage"]["prompt_tokens"] == 128
    assert post(tasks, "/v1/embeddings", model="vectors", input=LONG, truncate=True)["usage"]["prompt_tokens"] == 130


def test_a_model_is_asked_for_what_it_does(tasks: Any) -> None:
    client = openai.OpenAI(base_url=f"{tasks.url}/v1", api_key="any", max_retries=0)
    with pytest.raises(openai.NotFoundError, match=r"`classify` labels texts: ask it at /v1/classify") as caught:
        client.chat.completions.create(model="classify", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.code == "model_not_suited"
    with pytest.raises(openai.NotFoundError, match=r"`base` writes text: ask it at /v1/chat/completions"):
        client.embeddings.create(model="base", input="Hi")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.embeddings.create(model="nobody", input="Hi")
    with tasks.client() as raw:
        for path in ("/v1/tag", "/v1/extract", "/v1/classify"):
            body = {"model": "vectors", "input": {"question": "a", "context": "b"} if "extract" in path else "Hi"}
            assert raw.post(path, json=body).status_code == 404


def test_models_say_their_task_and_labels(tasks: Any) -> None:
    with tasks.client() as client:
        models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
        paths = client.get("/openapi.json").json()["paths"]
    assert (models["classify"]["task"], models["classify"]["labels"]) == ("classify", ["bad", "good"])
    assert (models["tag"]["task"], models["tag"]["labels"]) == ("tag", ["person", "place"])
    assert (models["vectors"]["task"], models["text"]["task"], models["base"]["task"]) == ("embed", "embed", "chat")
    for path in ("/v1/embeddings", "/v1/classify", "/v1/tag", "/v1/extract"):
        described = paths[path]["post"]
        assert "$ref" in described["responses"]["200"]["content"]["application/json"]["schema"]
        assert "429" in described["responses"]


def test_many_requests_at_once_are_never_mixed(tasks: Any) -> None:
    expected = {text: post(tasks, "/v1/classify", model="classify", input=text)["data"][0] for text in TEXTS}

    def ask(number: int) -> bool:
        texts = [TEXTS[(number + i) % len(TEXTS)] for i in range(1 + number % 40)]
        found = post(tasks, "/v1/classify", model="classify", input=texts)["data"]
        return [item["label"] for item in found] == [expected[text]["label"] for text in texts] and all(
            item["scores"] == pytest.approx(expected[text]["scores"], abs=1e-5) for item, text in zip(found, texts)
        )

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert all(pool.map(ask, range(60)))


def test_a_full_queue_answers_429_and_recovers(starting: Any, task_runs: dict[str, Path]) -> None:
    running = starting([f"classify={task_runs['classify']}"], slots=1, queue=2)
    (engine,) = running.server.engines
    compute = engine.compute

    def slow(rows: Any) -> Any:
        time.sleep(0.2)
        return compute(rows)

    engine.compute = slow
    try:

        def ask(number: int) -> httpx.Response:
            with running.client() as client:
                return client.post("/v1/classify", json={"model": "classify", "input": "blue sky"})

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask, range(12)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        assert ask(0).status_code == 200
        with running.client() as client:
            assert 'route="/v1/classify",status="429"' in client.get("/metrics").text
    finally:
        running.stop()


def test_a_client_that_goes_frees_its_place_and_a_broken_model_ends_no_server(
    starting: Any, task_runs: dict[str, Path]
) -> None:
    running = starting([f"tag={task_runs['tag']}"], slots=1, queue=2, seconds=1.5)
    (engine,) = running.server.engines
    compute = engine.compute
    body = {"model": "tag", "input": ["ada went to rome"] * 200}

    def slow(rows: Any) -> Any:
        time.sleep(0.3)
        return compute(rows)

    def broken(rows: Any) -> Any:
        raise RuntimeError("no memory")

    try:
        engine.compute = slow
        with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=running.url, timeout=0.4) as client:
            client.post("/v1/tag", json=body)
        end = time.monotonic() + 1
        while engine.works:
            assert time.monotonic() < end
            time.sleep(0.01)
        with running.client() as client:
            late = client.post("/v1/tag", json=body)  # 7 parts of 0.3 s
            assert (late.status_code, late.json()["error"]["code"]) == (408, "timeout")
            engine.compute = broken
            failed = client.post("/v1/tag", json=body)
            assert (failed.status_code, failed.json()["error"]["code"]) == (500, "engine_error")
            engine.compute = compute
            assert client.post("/v1/tag", json=body).status_code == 200
    finally:
        running.stop()


def test_prompts_are_logged_only_where_that_is_asked_for(starting: Any, task_runs: dict[str, Path]) -> None:
    for log in (False, True):
        running = starting([f"classify={task_runs['classify']}"], log=log)
        post(running, "/v1/classify", model="classify", input="a lovely secret")
        running.stop()
        assert any("lovely secret" in line for line in running.said) is log


def test_what_is_not_served_says_why(task_runs: dict[str, Path]) -> None:
    def opened(place: Path, **more: Any) -> None:
        limits = Limits()
        open_models([f"x={place}"], dtype=torch.float32, precision="auto", limits=limits, base=False, say=print, **more)

    with pytest.raises(tutelage.TutelageError, match=r"llama\.cpp does not run x"):
        opened(task_runs["classify"], engine="llama.cpp")
