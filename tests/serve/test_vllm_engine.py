"""vLLM behind the same API: the same answers, ends, log-probabilities and errors as from the engine on torch."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from tutelage.errors import MissingInputError, ModelError, UsageError
from tutelage.methods import lora
from tutelage.methods.opening import locate
from tutelage.models.load import load_model
from tutelage.recipe import LoraSpec
from tutelage.serve.exported import open_with_vllm
from tutelage.serve.limits import Limits
from tutelage.serve.vllm_engine import VllmEngine

ASK = [{"role": "user", "content": "Hello there, who are you?"}]
STAND_IN = Path(__file__).parent / "vllm_stand_in.py"
Folders = Callable[[str], Path]


def put_on_path(folder: Path, patch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / "vllm"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="module")
def places(model_folder: Folders, adapter_folder: Path) -> list[str]:
    return [f"base={model_folder('llama')}", f"tuned={adapter_folder}"]


@pytest.fixture(scope="module")
def vllm(starting: Any, places: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("vllm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # exports of models without a run go below the working folder
        put_on_path(folder / "bin", patch)
        running = starting(places, engine="vllm")
        yield running
        running.stop()


@pytest.fixture(scope="module")
def torchs(starting: Any, places: list[str]) -> Iterator[Any]:
    running = starting(places)
    yield running
    running.stop()


def client(running: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("model", ["base", "tuned"])
@pytest.mark.parametrize("more", [
    {}, {"stream": True, "stream_options": {"include_usage": True}}, {"logprobs": True, "top_logprobs": 3},
    {"logprobs": True, "top_logprobs": 0}, {"n": 3}, {"stop": ["a", "e"]}, {"max_completion_tokens": 1},
])  # fmt: skip
def test_answers_are_those_of_the_engine_on_torch(vllm: Any, torchs: Any, model: str, more: dict[str, Any]) -> None:
    body = {"model": model, "messages": ASK, "temperature": 0, "max_tokens": 20, **more}
    found = [httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60) for running in (vllm, torchs)]
    assert [answer.status_code for answer in found] == [200, 200]
    texts = [read(answer.text, streamed="stream" in more) for answer in found]
    floats: list[list[float]] = [[], []]
    assert without(texts[0], floats[0]) == without(texts[1], floats[1])
    assert floats[0] == pytest.approx(floats[1], abs=1e-3)
    assert bool(floats[0]) is ("logprobs" in more)


def read(text: str, *, streamed: bool) -> Any:
    """What does not differ by time, name or how the answer was cut into pieces."""
    if not streamed:
        answer = json.loads(text)
        usage = {name: answer["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
        return answer["choices"], usage
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    return said, choices[-1]["finish_reason"], events[-1]["usage"]["completion_tokens"]


def without(value: Any, floats: list[float]) -> Any:
    """`value` without its floats, which are put into the list."""
    if isinstance(value, float):
        floats.append(value)
        return None
    if isinstance(value, dict):
        return {key: without(each, floats) for key, each in value.items()}
    return [without(each, floats) for each in value] if isinstance(value, list | tuple) else value


def test_a_seed_gives_the_same_answer_again_and_another_one_another(vllm: Any) -> None:
    def text(seed: int) -> str:
        body = {"model": "base", "prompt": "Once", "temperature": 1.0, "seed": seed, "max_tokens": 20}
        return str(httpx.post(f"{vllm.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"])

    assert text(1) == text(1) != text(2)


def test_tokens_and_what_was_shared_are_counted(vllm: Any) -> None:
    answer = client(vllm).completions.create(model="tuned", prompt="Once upon a time", max_tokens=2, temperature=0)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3  # what the stand-in says
    assert "tutelage_streams_running 0" in httpx.get(f"{vllm.url}/metrics").text


def test_the_context_is_what_vllm_says(vllm: Any) -> None:
    assert {model.id: model.to_dict()["context_length"] for model in client(vllm).models.list()} == {
        "base": 512,
        "tuned": 512,
    }
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512"):
        client(vllm).completions.create(model="base", prompt="word " * 600, max_tokens=2)


def test_what_vllm_refuses_is_refused_with_its_words(vllm: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="vLLM: min_p is too much"):
        client(vllm).completions.create(model="base", prompt="a", max_tokens=2, extra_body={"min_p": 1})


def test_a_client_that_goes_is_heard_of_by_vllm(vllm: Any) -> None:
    (engine,) = vllm.server.engines
    body = {"model": "base", "prompt": "Once", "temperature": 0, "max_tokens": 400, "stream": True}
    with httpx.Client(timeout=60) as asking, asking.stream("POST", f"{vllm.url}/v1/completions", json=body) as answer:
        next(answer.iter_raw())
    end = time.monotonic() + 20
    while engine.streams or engine._tasks or "a client went" not in engine.process.log.read_text(encoding="utf-8"):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nobody_else_may_ask_vllm(vllm: Any) -> None:
    (engine,) = vllm.server.engines
    assert httpx.get(f"{engine.process.url}/v1/models").status_code == 401


def test_when_vllm_ends_answers_are_errors_and_the_server_lives(
    starting: Any, places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path / "bin", monkeypatch)
    running = starting(places[:1], engine="vllm")
    (engine,) = running.server.engines
    os.killpg(engine.process.number, signal.SIGKILL)
    answer = httpx.post(f"{running.url}/v1/completions", json={"model": "base", "prompt": "a"}, timeout=60)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "engine_error"
    assert httpx.get(f"{running.url}/health").status_code == 200
    running.stop()


# Before it serves


def opened(models: list[str], **more: Any) -> VllmEngine:
    places = {Path(model).name: locate(model) for model in models}
    served = open_with_vllm(places, dtype=torch.float32, limits=Limits(slots=4), say=print, **more)
    (engine,) = {id(model.engine): model.engine for model in served.values()}.values()
    assert isinstance(engine, VllmEngine)
    return engine


@contextmanager
def stand_in(tmp_path: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        put_on_path(tmp_path / "bin", patch)
        yield


def test_adapters_share_one_vllm_and_flags_are_passed_on(
    tmp_path: Path, model_folder: Folders, adapter_folder: Path
) -> None:
    with stand_in(tmp_path):
        words = opened([str(adapter_folder)], flags=("--swap-space", "2")).process.words
    folder = "exports/tuned/peft-fp32"
    assert words[1:] == [
        "serve", str(model_folder("llama")), "--served-model-name", model_folder("llama").name, "--enable-lora",
        "--max-lora-rank", "8", "--max-loras", "1", "--lora-modules", f"tuned={folder}", "--dtype", "float32",
        "--max-num-seqs", "4", "--enable-prompt-tokens-details", "--generation-config", "vllm", "--swap-space", "2",
    ]  # fmt: skip
    assert (tmp_path / folder / "parity.json").is_file()


def test_one_vllm_has_one_base(tmp_path: Path, model_folder: Folders) -> None:
    with stand_in(tmp_path), pytest.raises(UsageError, match="vLLM runs one base model at a time"):
        opened([str(model_folder("llama")), str(model_folder("qwen3"))])


def test_a_vllm_that_ends_is_told_of_with_its_last_words(tmp_path: Path, model_folder: Folders) -> None:
    with stand_in(tmp_path):
        engine = opened([str(model_folder("llama"))], flags=("--fail",))
        with pytest.raises(ModelError, match="ended with 3: ValueError: there is no room for the cache"):
            engine.process.start(print)


def test_without_vllm_it_says_what_to_install(
    tmp_path: Path, model_folder: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MissingInputError, match=r"tutelage\[vllm\]"):
        opened([str(model_folder("llama"))])


def test_what_vllm_cannot_add_itself_is_merged_first(tmp_path: Path, model_folder: Folders) -> None:
    model, spec, dora = (
        load_model(model_folder("llama"), dtype=torch.float32),
        LoraSpec(rank=2, dora=True),
        tmp_path / "dora",
    )
    dora.mkdir()
    lora.Lora().prepare(model, spec, seed=0)
    lora.Lora().save(model, spec, dora, base=str(model_folder("llama")))
    with stand_in(tmp_path):
        engine = opened([str(dora)])
    assert engine.base == "dora"
    assert engine.process.words[2] == "exports/dora/merged-fp32"
    assert "--enable-lora" not in engine.process.words


def test_vllm_ends_with_a_server_that_is_killed(tmp_path: Path, model_folder: Folders) -> None:
    with stand_in(tmp_path):
        code = (
            "import sys, tutelage; from pathlib import Path\n"
            "from tutelage.serve.vllm_process import VllmProcess\n"
            f"process = VllmProcess([{str(model_folder('llama'))!r}, '--served-model-name', 'x', '--dtype', 'float32'])\n"
            "process.start(lambda text: None); print(process.number, flush=True); input()\n"
        )
        server = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert server.stdout is not None
    number = int(server.stdout.readline())
    os.kill(number, 0)  # it is there
    server.kill()
    server.wait()
    end = time.monotonic() + 30
    while Path(f"/proc/{number}").exists():  # gone, and waited for by whoever adopted it
        if (status := Path(f"/proc/{number}/status")).exists() and "State:\tZ" in status.read_text():
            break
        assert time.monotonic() < end
        time.sleep(0.05)
