"""llama.cpp behind the same batch and the same API: each stream is the answer that llama.cpp gives alone."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("llama_cpp") is None:
    pytest.skip("llama-cpp-python is an extra that builds from source", allow_module_level=True)

import tutelage
from tutelage.export.gguf_file import FILE
from tutelage.export.llama_cpp_model import LlamaCppModel
from tutelage.generate.sampling import Sampling
from tutelage.generate.streams import Batch, Job
from tutelage.methods.opening import locate
from tutelage.serve.exported import open_with_llama_cpp
from tutelage.serve.limits import Limits
from tutelage.serve.llama_cpp_runner import LlamaCppRunner


@pytest.fixture(scope="module")
def file(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "out"
    tutelage.export(str(model_folder("qwen3")), to="gguf:f32", out=str(out), prompts=2, max_tokens=2, texts=5)
    return out / FILE


def alone(model: LlamaCppModel, ids: list[int], tokens: int) -> list[int]:
    answer: list[int] = []
    for _ in range(tokens):
        row = model.logits([*ids, *answer], len(ids) + len(answer) - 1)[0]
        best = row.topk(2).values
        if float(best[0] - best[1]) < 0.05:  # the batch computes in float16 caches: a near tie may fall either way
            break
        answer.append(int(row.argmax()))
    return answer


def run(batch: Batch, jobs: list[Job]) -> None:
    for job in jobs:
        batch.add(job)
    while batch.busy:
        batch.step()


def test_streams_are_never_mixed_and_share_beginnings(file: Path) -> None:
    runner = LlamaCppRunner(file, slots=4, threads=1)
    model = LlamaCppModel(file)
    system = list(range(20, 90))
    asked = [[*system, 100 + i, 7] if i % 2 else [100 + i, 9, 11] for i in range(8)]
    jobs = [Job(ids, Sampling(), frozenset(), 10) for ids in asked]
    batch = Batch(runner, slots=4, keep=512)
    run(batch, jobs)
    for job, ids in zip(jobs, asked):
        expected = alone(model, ids, 10)
        assert job.answer[: len(expected)] == expected
    assert [job.shared for job in jobs if len(job.ids) > 3] == [0, 70, 70, 70]


def test_a_sequence_that_rested_goes_on_as_it_was(file: Path) -> None:
    runner = LlamaCppRunner(file, slots=2, threads=1)
    model = LlamaCppModel(file)
    batch = Batch(runner, slots=2, keep=512)
    first = Job(list(range(20, 90)), Sampling(), frozenset(), 8)
    run(batch, [first])
    asked = [[*first.ids, *first.answer[:7], 11 + i, 9] for i in range(4)]
    later = [Job(ids, Sampling(), frozenset(), 10) for ids in asked]
    run(batch, later)
    assert [job.shared for job in later] == [77] * 4
    for job, ids in zip(later, asked):
        expected = alone(model, ids, 10)
        assert job.answer[: len(expected)] == expected


def test_kept_sequences_hold_neither_cells_nor_sequences(file: Path) -> None:
    """Far more streams than llama.cpp has sequences (256), all of them kept."""
    runner = LlamaCppRunner(file, slots=4, threads=1)
    batch = Batch(runner, slots=4, keep=8192)
    for start in range(0, 300, 30):
        run(batch, [Job([3 + start + i, 9, 4], Sampling(), frozenset(), 2) for i in range(30)])
    assert batch.kept.tokens > 256
    runner._clear()
    assert sorted(runner.free) == list(range(4))
    assert all(runner.library.llama_memory_seq_pos_max(runner.memory, number) == -1 for number in range(4))


def test_a_run_is_exported_and_checked_once(lora_run_of: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        served = open_with_llama_cpp(
            {"tuned": locate(str(lora_run_of))},
            precision="f16",
            limits=Limits(slots=2, keep=64),
            say=said.append,
            threads=1,
        )
        assert list(served) == ["tuned"]
    assert sum("exporting gguf:f16" in line for line in said) == 1
    assert sum("has passed the parity gate" in line for line in said) == 1


@pytest.fixture
def lora_run_of(model_folder: Callable[[str], Path], tmp_path: Path, chat_file: Any) -> Path:
    recipe = {
        "model": str(model_folder("llama")), "data": {"train": str(chat_file(12)), "validation": 0.3}, "precision": "fp32",
        "method": {"kind": "lora", "rank": 2, "alpha": 4}, "max_tokens": 400, "threads": 1, "out": str(tmp_path / "run"),
        "optim": {"steps": 1, "batch_size": 4, "learning_rate": 1e-3},
    }  # fmt: skip
    tutelage.train(tutelage.make_recipe(recipe))
    return tmp_path / "run"
