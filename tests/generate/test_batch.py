"""Batched generation against the plain stream, on tiny real models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tutelage.engine.backbone import make_backbone
from tutelage.errors import DataError, OutOfMemoryError
from tutelage.generate.batch import Generated, generate
from tutelage.generate.decode import stream
from tutelage.generate.sampling import Sampling

Folders = Callable[[str], Path]
STOP = frozenset({2, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59})  # so many that random models meet one
PROMPTS = [[5, 6, 7], [9] * 40, [11, 12, 13, 14, 15, 16, 17], [8], [20, 21] * 9]


def open_tiny(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def alone(model: Any, prompt: list[int], max_tokens: int) -> Generated:
    ids = stream(model, prompt, sampling=Sampling(), stop_ids=STOP, max_tokens=max_tokens)
    taken = []
    while True:
        try:
            taken.append(next(ids))
        except StopIteration as end:
            return Generated(tuple(taken), end.value)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma2"])
def test_a_batch_answers_as_each_prompt_alone(model_folder: Folders, kind: str) -> None:
    model = open_tiny(model_folder(kind))
    expected = [alone(model, prompt, 30) for prompt in PROMPTS]
    assert generate(model, PROMPTS, stop_ids=STOP, max_tokens=30) == expected
    assert generate(model, PROMPTS, stop_ids=STOP, max_tokens=30, cache_tokens=90) == expected  # several batches
    assert kind == "gemma2" or {one.ended for one in expected} == {"stop", "length"}


def test_it_works_behind_our_attention_and_leaves_it_switched_on(model_folder: Folders) -> None:
    model = open_tiny(model_folder("llama"))
    expected = generate(model, PROMPTS, stop_ids=STOP, max_tokens=20)
    make_backbone(model)
    ours = model.config._attn_implementation
    assert generate(model, PROMPTS, stop_ids=STOP, max_tokens=20) == expected
    assert model.config._attn_implementation == ours != "sdpa"


def test_sampling_depends_on_the_seed_and_not_on_the_batches(model_folder: Folders) -> None:
    model = open_tiny(model_folder("llama"))
    warm = Sampling(temperature=1.0)

    def draw(seed: int, room: int = 8192) -> list[Generated]:
        return generate(model, PROMPTS, stop_ids=STOP, max_tokens=12, sampling=warm, seed=seed, cache_tokens=room)

    assert draw(1) == draw(1) == draw(1, room=30)
    assert draw(1) != draw(2)


def test_a_full_context_ends_an_answer(model_folder: Folders) -> None:
    model = open_tiny(model_folder("llama"))
    found = generate(model, [[7] * 505, [7, 8]], stop_ids=frozenset(), max_tokens=12)
    assert [one.ended for one in found] == ["context", "length"]
    assert len(found[0].ids) == 7


def test_out_of_memory_halves_the_batch_and_changes_nothing(model_folder: Folders) -> None:
    model = open_tiny(model_folder("llama"))
    expected = generate(model, PROMPTS, stop_ids=STOP, max_tokens=10)
    forward, most = model.forward, 2

    def small(*args: Any, **values: Any) -> Any:
        if values["input_ids"].shape[0] > most:
            raise MemoryError
        return forward(*args, **values)

    small.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    model.forward = small
    assert generate(model, PROMPTS, stop_ids=STOP, max_tokens=10) == expected
    most = 0
    with pytest.raises(OutOfMemoryError, match="not even one answer"):
        generate(model, PROMPTS, stop_ids=STOP, max_tokens=10)


def test_empty_and_too_long_prompts_are_named_together(model_folder: Folders) -> None:
    model = open_tiny(model_folder("llama"))
    with pytest.raises(DataError) as caught:
        generate(model, [[1], [], [3] * 600], stop_ids=STOP, max_tokens=4)
    assert [problem.what for problem in caught.value.problems] == ["prompt 2 is empty", "prompt 3 has 600 tokens"]
