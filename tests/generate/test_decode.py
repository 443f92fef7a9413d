import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tutelage.errors import DataError
from tutelage.generate.batch import generate
from tutelage.generate.decode import Memory, context_limit, stream
from tutelage.generate.sampling import Sampling

NO_STOP: frozenset[int] = frozenset()
GREEDY = Sampling()
PROMPT = [5, 300, 17, 42, 99, 7]


@pytest.fixture
def load(model_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    return lambda kind: AutoModelForCausalLM.from_pretrained(model_folder(kind), dtype=torch.float32).eval()


def run(ids: Generator[int, None, str]) -> tuple[list[int], str]:
    chosen = []
    while True:
        try:
            chosen.append(next(ids))
        except StopIteration as end:
            return chosen, end.value


def generated(model: Any, prompt: list[int], count: int) -> list[int]:
    """What transformers' own greedy search makes of the prompt, stop ids switched off."""
    model.generation_config.eos_token_id = None
    given = torch.tensor([prompt])
    out = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma2"])
def test_greedy_is_what_transformers_generates(load: Callable[[str], Any], kind: str) -> None:
    model = load(kind)
    ids, reason = run(stream(model, PROMPT, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=30))
    assert ids == generated(model, PROMPT, 30)
    assert reason == "length"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_cache_is_passed_by_the_name_that_the_model_knows(load: Callable[[str], Any], kind: str) -> None:
    model = load(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        run(stream(model, PROMPT, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=2))
        generate(model, [PROMPT, PROMPT[:3]], stop_ids=NO_STOP, max_tokens=2)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_growing_conversation_with_a_memory_equals_one_without(load: Callable[[str], Any], kind: str) -> None:
    model, memory, prompt = load(kind), Memory(), PROMPT
    for turn in range(3):
        kept, _ = run(stream(model, prompt, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=8, memory=memory))
        fresh, _ = run(stream(model, prompt, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=8))
        assert kept == fresh
        prompt = [*prompt, *kept, 11 + turn, 12]
    shorter = [*prompt[:9], 77, 78]  # another continuation: what is kept must be cut back
    kept, _ = run(stream(model, shorter, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=8, memory=memory))
    assert kept == run(stream(model, shorter, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=8))[0]


def test_a_memory_spares_reading_the_prompt_again(load: Callable[[str], Any]) -> None:
    model, memory = load("llama"), Memory()
    ids, _ = run(stream(model, PROMPT, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=8, memory=memory))
    read: list[int] = []
    model.register_forward_pre_hook(lambda m, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    run(stream(model, [*PROMPT, *ids, 9], sampling=GREEDY, stop_ids=NO_STOP, max_tokens=1, memory=memory))
    assert read == [2]  # the last answer token, which was never fed back, and the new one


def test_an_interrupted_forward_empties_the_memory(load: Callable[[str], Any]) -> None:
    model, memory = load("llama"), Memory()
    run(stream(model, PROMPT, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=4, memory=memory))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    hook = model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(stream(model, [*PROMPT, 3], sampling=GREEDY, stop_ids=NO_STOP, max_tokens=4, memory=memory))
    hook.remove()
    kept, _ = run(stream(model, [*PROMPT, 3], sampling=GREEDY, stop_ids=NO_STOP, max_tokens=6, memory=memory))
    assert kept == generated(model, [*PROMPT, 3], 6)


def test_it_ends_before_a_stop_id(load: Callable[[str], Any]) -> None:
    model = load("llama")
    whole = generated(model, PROMPT, 12)
    stop = whole[6]
    ids, reason = run(stream(model, PROMPT, sampling=GREEDY, stop_ids=frozenset({stop}), max_tokens=12))
    assert ids == whole[: whole.index(stop)]
    assert reason == "stop"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # gpt2 has no position behind its last one and would crash
def test_a_full_context_ends_the_answer(load: Callable[[str], Any], kind: str) -> None:
    model = load(kind)
    limit = context_limit(model)
    assert limit == 512
    prompt = [(7 * i) % 500 + 3 for i in range(limit - 5)]
    ids, reason = run(stream(model, prompt, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=50))
    assert (len(ids), reason) == (5, "context")


def test_a_prompt_that_fills_the_context_is_an_error_in_words(load: Callable[[str], Any]) -> None:
    with pytest.raises(DataError, match="the prompt has 512 tokens, and this model reads at most 512"):
        next(stream(load("gpt2"), [3] * 512, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=5))
    with pytest.raises(DataError, match="the prompt is empty"):
        next(stream(load("gpt2"), [], sampling=GREEDY, stop_ids=NO_STOP, max_tokens=5))


def test_between_two_tokens_the_consumer_is_not_in_inference_mode(load: Callable[[str], Any]) -> None:
    for _ in stream(load("llama"), PROMPT, sampling=GREEDY, stop_ids=NO_STOP, max_tokens=3):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_sampling_with_a_seed_is_reproducible(load: Callable[[str], Any]) -> None:
    def draw(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        sampling = Sampling(temperature=1.5, top_p=0.95, repetition_penalty=1.1)
        return run(
            stream(load("llama"), PROMPT, sampling=sampling, stop_ids=NO_STOP, max_tokens=20, generator=generator)
        )[0]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
