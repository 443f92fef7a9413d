"""Public data sets as they are: those with answers are read, the others refused with the reason."""

from pathlib import Path

import pytest

from tutelage.data.prepare import prepare
from tutelage.errors import DataError
from tutelage.recipe import DataSpec

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")]


@pytest.mark.parametrize(
    "path, name, rows",
    [
        ("alpaca/alpaca_en_demo/alpaca_en_demo.json", "alpaca", 999),
        ("dolly/local_training_6.json", "dolly", 1493),
        ("dolly/local_training_9.json", "dolly", 1494),
        ("dolly", "dolly", 2987),
        ("prompt_response/dolly_hhrlhf/rows.jsonl", "gpt4all", 500),
        ("chat/glaive_toolcall_en_demo/glaive_toolcall_en_demo.json", "sharegpt", 300),
        ("chat/sharegpt_dummy/dummy_conversation.json", "sharegpt", 500),
        ("chat/identity/identity.json", "alpaca", 91),
        ("chat/openai_toy_chat/toy_chat_fine_tuning.jsonl", "messages", 5),
        ("bench", "messages", 1390),
        ("alpaca/self_instruct_seed/seed_tasks.jsonl", "alpaca", 175),
    ],
)
def test_read(path: str, name: str, rows: int) -> None:
    prepared = prepare(DataSpec(train=[str(DATA / path)], validation=0.1), seed=0)
    counts = prepared.counts()
    assert set(prepared.formats.values()) == {name}
    assert counts["train"] + counts["validation"] + len(prepared.dropped) == rows
    assert not prepared.dropped
    assert counts["validation"] > 0


@pytest.mark.parametrize(
    "path, words",
    [
        ("chat/oasst1_en_validation/en-validation.jsonl", ("belongs to no tree",)),
        ("tag/wnut17/wnut17train.conll", ("tokens with tags",)),
        ("tag/wnut17", ("tokens with tags", "emerging.dev.conll")),
        ("extract/xquad_en/xquad.en.json", ("SQuAD", "spans")),
        ("classify/banking77/train.csv", ("label",)),
        ("dirty/dedup_demo/demo-dataset-deduplication.jsonl", ("plain texts",)),
        ("dirty/mmlu_redux", ("no known format", "'question', 'choices'")),
    ],
)
def test_refused(path: str, words: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        prepare(DataSpec(train=[str(DATA / path)]), seed=0)
    for word in words:
        assert word in str(caught.value)


def test_glaive_calls_are_structured() -> None:
    prepared = prepare(DataSpec(train=[str(DATA / "chat/glaive_toolcall_en_demo")]), seed=0)
    messages = [message for conversation in prepared.train for message in conversation.messages]
    assert sum(bool(message.tool_calls) for message in messages) == 211
    assert sum(message.role == "tool" for message in messages) == 211
    assert sum(not conversation.tools for conversation in prepared.train) == 109
