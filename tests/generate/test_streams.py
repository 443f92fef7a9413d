"""Many streams over one model: each is the answer that its prompt gets alone, whatever runs beside it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.generate.adapter_weights import fuse
from tutelage.generate.decode import stream
from tutelage.generate.llama_runner import LlamaRunner, is_llama_shaped, sizes_of, take_apart
from tutelage.generate.plain_runner import PlainRunner
from tutelage.generate.runner import Chunk
from tutelage.generate.sampling import Sampling
from tutelage.generate.streams import Batch, Job
from tutelage.methods import lora
from tutelage.methods.targets import target_names
from tutelage.models.load import load_model

TIE = 1e-3
SHAPES = ["llama", "qwen2", "qwen3"]
Folders = Callable[[str], Path]


def model_of(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_model(folder, dtype=dtype)


def runner_of(folder: Path, dtype: torch.dtype = torch.float32, fast: bool = True) -> LlamaRunner:
    runner = take_apart(model_of(folder, dtype), fast=fast)
    assert runner is not None
    return runner


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Prompts of very different lengths; every second one begins like the others."""
    generator = torch.Generator().manual_seed(seed)
    system = torch.randint(3, 400, (40,), generator=generator).tolist()
    found = []
    for i in range(count):
        length = int(torch.randint(1, 60, (1,), generator=generator))
        own = torch.randint(3, 400, (length,), generator=generator).tolist()
        found.append([*system, *own] if i % 2 else own)
    return found


def job(ids: Sequence[int], tokens: int = 12, **options: Any) -> Job:
    return Job(ids, options.pop("sampling", Sampling()), options.pop("stop_ids", frozenset()), tokens, **options)


def run(batch: Batch, jobs: list[Job]) -> dict[int, str]:
    """Drive the batch to its end; why each job ended, by its number."""
    for each in jobs:
        batch.add(each)
    reasons: dict[int, str] = {}
    while batch.busy:
        for output in batch.step():
            if output.reason:
                reasons[jobs.index(output.job)] = output.reason
    return reasons


def alone(model: Any, ids: Sequence[int], tokens: int = 12, stop_ids: frozenset[int] = frozenset()) -> list[int]:
    return list(stream(model, ids, sampling=Sampling(), stop_ids=stop_ids, max_tokens=tokens))


def assert_same(model: Any, ids: Sequence[int], got: list[int], expected: list[int]) -> None:
    """Equal up to the first token whose two best logits are a tie."""
    for i, (a, b) in enumerate(zip(got, expected)):
        if a != b:
            logits = model(torch.tensor([[*ids, *expected[:i]]])).logits[0, -1]
            best = logits.topk(2).values
            assert float(best[0] - best[1]) < TIE, f"token {i}: {a} instead of {b}"
            return
    assert len(got) == len(expected)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("slots, prefill", [(1, 256), (5, 7), (16, 256)])
def test_each_stream_is_its_solo_answer(model_folder: Folders, kind: str, slots: int, prefill: int) -> None:
    model = model_of(model_folder(kind))
    batch = Batch(runner_of(model_folder(kind)), slots=slots, prefill=prefill)
    asked = prompts(14)
    jobs = [job(ids) for ids in asked]
    reasons = run(batch, jobs)
    assert set(reasons.values()) == {"length"}
    for each, ids in zip(jobs, asked):
        assert_same(model, ids, each.answer, alone(model, ids))


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "gemma2", "llama"])
def test_any_family_runs_the_plain_way(model_folder: Folders, kind: str) -> None:
    model = model_of(model_folder(kind))
    batch = Batch(PlainRunner(model), slots=4)
    asked = prompts(6)
    jobs = [job(ids, 8) for ids in asked]
    run(batch, jobs)
    for each, ids in zip(jobs, asked):
        assert_same(model, ids, each.answer, alone(model, ids, 8))


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "gemma2"])
def test_models_of_another_shape_are_not_taken_apart(model_folder: Folders, kind: str) -> None:
    model = model_of(model_folder(kind))
    assert not is_llama_shaped(model)
    assert take_apart(model) is None


def test_a_model_that_computes_something_else_is_not_believed(model_folder: Folders) -> None:
    """Same modules, other mathematics: the comparison at load finds it."""
    model = model_of(model_folder("llama"))
    model.lm_head.register_forward_hook(lambda module, given, out: out * 1.1)
    assert is_llama_shaped(model)
    assert take_apart(model) is None


@pytest.mark.parametrize("kind", SHAPES)
def test_the_fast_path_equals_the_plain_one_in_bfloat16(model_folder: Folders, kind: str) -> None:
    runners = [runner_of(model_folder(kind), torch.bfloat16, fast) for fast in (True, False)]
    assert runners[0].output.packed
    assert not runners[1].output.packed
    logits = []
    for runner in runners:
        first = runner.begin(None, 0)
        runner.forward([Chunk(first, [5, 6, 7, 8])])
        second = runner.begin(first, 2)
        logits.append(runner.forward([Chunk(first, [9]), Chunk(second, [10, 11, 12])]))
    assert float((logits[0] - logits[1]).abs().max()) < 0.05 * float(logits[1].abs().max())


def test_a_stop_id_ends_a_stream_and_is_not_part_of_it(model_folder: Folders) -> None:
    folder = model_folder("llama")
    model = model_of(folder)
    ids = [5, 9, 33, 71]
    free = alone(model, ids, 10)
    stops = frozenset({free[4]})
    (one,) = jobs = [job(ids, 10, stop_ids=stops)]
    assert run(Batch(runner_of(folder)), jobs) == {0: "stop"}
    assert one.answer == alone(model, ids, 10, stops)
    assert free[4] not in one.answer


def test_the_context_ends_a_stream(model_folder: Folders) -> None:
    jobs = [job(list(range(3, 503)), 100)]
    assert run(Batch(runner_of(model_folder("llama"))), jobs) == {0: "context"}
    assert len(jobs[0].ids) + len(jobs[0].answer) == 512


def test_a_common_beginning_is_read_once(model_folder: Folders) -> None:
    """Also where the jobs come at the same moment: the others wait for the first to have read it."""
    batch = Batch(runner_of(model_folder("llama")), slots=8)
    system = list(range(20, 120))
    jobs = [job([*system, 200 + i], 4) for i in range(6)]
    run(batch, jobs)
    assert [each.shared for each in jobs] == [0, *[100] * 5]
    later = [job([*system, 300, 301, 302], 4)]
    run(batch, later)
    assert later[0].shared == 100


def test_a_conversation_that_grows_is_read_once(model_folder: Folders) -> None:
    batch = Batch(runner_of(model_folder("llama")))
    first = job(list(range(20, 60)), 6)
    run(batch, [first])
    second = job([*first.ids, *first.answer, 7, 8], 6)
    run(batch, [second])
    assert second.shared == 40 + 5  # the last token of an answer is never read


def test_a_whole_known_prompt_still_reads_its_last_token(model_folder: Folders) -> None:
    batch = Batch(runner_of(model_folder("llama")))
    twice = [job(list(range(20, 60)), 6), job(list(range(20, 60)), 6)]
    run(batch, twice[:1])
    run(batch, twice[1:])
    assert twice[1].shared == 39
    assert twice[0].answer == twice[1].answer


def test_what_is_kept_is_bounded(model_folder: Folders) -> None:
    batch = Batch(runner_of(model_folder("llama")), keep=300)
    for i in range(12):
        run(batch, [job([20 + i, *range(100, 150)], 4)])
        assert batch.kept.tokens <= 300
    assert batch.kept.tokens > 0


def test_a_removed_job_gives_its_slot_back(model_folder: Folders) -> None:
    batch = Batch(runner_of(model_folder("llama")), slots=1)
    first, second, third = (job([5 + i, 9, 33], 40) for i in range(3))
    for each in (first, second, third):
        batch.add(each)
    batch.step()
    batch.remove(first)
    batch.remove(second)
    assert [len(batch.active), len(batch.waiting)] == [0, 1]
    while batch.busy:
        batch.step()
    assert len(third.answer) == 40
    batch.remove(third)  # ended long ago


def test_after_a_failure_nothing_is_held(model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of(model_folder("llama"))
    batch = Batch(runner, slots=4)
    for i in range(6):
        batch.add(job([5 + i, 9, 33], 40))
    batch.step()
    pools = [each.state.pool for each in batch.active]
    with monkeypatch.context() as patched:
        patched.setattr(runner, "norm", lambda x: (_ for _ in ()).throw(MemoryError("full")))
        with pytest.raises(MemoryError, match="full"):
            batch.step()
    batch.clear()
    assert not batch.busy
    assert [len(pool.members) for pool in pools] == [0] * 4
    again = job([5, 9, 33], 6)
    run(batch, [again])
    assert again.answer == alone(model_of(model_folder("llama")), [5, 9, 33], 6)


LAYERS = {"a": ["q_proj", "down_proj"], "b": ["v_proj", "up_proj", "o_proj", "gate_proj", "k_proj"]}


def adapted(folder: Path, *names: str) -> tuple[LlamaRunner, dict[str | None, Any]]:
    """A runner with these adapters, and merged models by the adapter's name."""
    models: dict[str | None, Any] = {None: model_of(folder)}
    adapters = {}
    for seed, name in enumerate(names):
        targets = LAYERS[name]
        model = model_of(folder)
        torch.manual_seed(seed)
        for target in target_names(model, targets):
            layer = lora.wrap(model, target, 3, 2.0, 0.0)
            layer.a.data.normal_(std=0.2)
            layer.b.data.normal_(std=0.2)
        pairs = {
            key.removeprefix("model."): (layer.a.detach(), layer.b.detach()) for key, layer in lora.lora_layers(model)
        }
        adapters[name] = fuse(pairs, 2.0, sizes_of(models[None]), 2, torch.float32)
        lora.merge(model)
        models[name] = model
    runner = take_apart(model_of(folder), adapters)
    assert runner is not None
    return runner, models


@pytest.mark.parametrize("adapters", ["a", "b", "ab"])
def test_adapters_and_their_base_run_side_by_side(model_folder: Folders, adapters: str) -> None:
    runner, models = adapted(model_folder("llama"), *adapters)
    asked = prompts(12)
    names = [(*adapters, None)[i % (len(adapters) + 1)] for i in range(12)]
    jobs = [job(ids, adapter=name) for ids, name in zip(asked, names)]
    run(Batch(runner, slots=7, prefill=50), jobs)
    for each, ids, name in zip(jobs, asked, names):
        assert_same(models[name], ids, each.answer, alone(models[name], ids))


def test_adapters_do_not_share_beginnings(model_folder: Folders) -> None:
    runner, models = adapted(model_folder("llama"), "a", "b")
    batch = Batch(runner)
    ids = list(range(30, 90))
    jobs = [job(ids, adapter=name) for name in (None, "a", "b", "a")]
    for each in jobs:
        run(batch, [each])
    assert [each.shared for each in jobs] == [0, 0, 0, 59]
    assert_same(models["a"], ids, jobs[3].answer, alone(models["a"], ids))


def test_sampling_is_repeated_by_its_seed_whatever_runs_beside_it(model_folder: Folders) -> None:
    folder = model_folder("llama")
    warm = Sampling(temperature=0.8, top_p=0.9)

    def sampled(others: int) -> list[int]:
        one = job([5, 9, 33], 12, sampling=warm, generator=torch.Generator().manual_seed(7))
        run(Batch(runner_of(folder), slots=8), [one, *(job(ids, 12) for ids in prompts(others))])
        return one.answer

    assert sampled(0) == sampled(5)


def test_log_probabilities_are_those_of_the_model(model_folder: Folders) -> None:
    folder = model_folder("llama")
    ids = [5, 9, 33]
    batch, one = Batch(runner_of(folder)), job(ids, 3, logprobs=4)
    batch.add(one)
    outputs = [output for _ in range(3) for output in batch.step() if output.token is not None]
    logits = model_of(folder)(torch.tensor([[*ids, *one.answer]])).logits[0]
    for i, output in enumerate(outputs):
        logs = torch.log_softmax(logits[len(ids) - 1 + i].float(), dim=-1)
        assert output.token is not None
        assert output.logprob == pytest.approx(float(logs[output.token]), abs=1e-4)
        assert [token for token, _ in output.alternatives] == logs.topk(4).indices.tolist()


def test_a_rule_may_forbid_tokens(model_folder: Folders) -> None:
    def even(answer: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(0, torch.arange(1, len(logits), 2), -torch.inf)

    one = job([5, 9, 33], 10, allow=even)
    run(Batch(runner_of(model_folder("llama"))), [one])
    assert len(one.answer) == 10
    assert all(token % 2 == 0 for token in one.answer)
