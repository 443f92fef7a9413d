"""Properties of the split by prompt hash."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.split import prompt, prompt_hash, split
from tutelage.data.types import At, Conversation, Message, Role

shares = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**40)
PINNED = 14649249466646652218


def talk(question: str, answer: str = "a", row: int = 1) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), At("f", row))


def turns(*roles: Role) -> Conversation:
    return Conversation(tuple(Message(role, f"{role} {index}") for index, role in enumerate(roles)), At("f", 1))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=3), max_size=40), shares, seeds)
def test_a_partition_that_never_separates_repeats(texts: list[str], share: float, seed: int) -> None:
    rows = [talk(text, row=number) for number, text in enumerate(texts)]
    train, held = split(rows, share, seed=seed)
    assert sorted([*train, *held], key=lambda c: c.at) == rows
    assert list(train) == sorted(train, key=lambda c: c.at)
    keys = {prompt_hash(c, seed) for c in train}, {prompt_hash(c, seed) for c in held}
    assert not keys[0] & keys[1]
    assert not rows or train
    if len(keys[0] | keys[1]) >= 2:
        assert train
        assert held


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 10_000), min_size=50, max_size=80), st.integers(1, 49), seeds)
def test_adding_rows_moves_no_other(numbers: set[int], first: int, seed: int) -> None:
    rows = [talk(str(number), row=number) for number in sorted(numbers)]
    before, after = split(rows[:first], 0.5, seed=seed), split(rows, 0.5, seed=seed)
    points = [prompt_hash(row, seed) / 256**8 for row in rows[:first]]
    if min(points) < 0.5 <= max(points):  # else the exception for tiny sets applies
        assert set(before[0]) <= set(after[0])
        assert set(before[1]) <= set(after[1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=4), max_size=30, unique=True), shares, shares, seeds)
def test_a_larger_share_holds_out_more(texts: list[str], one: float, two: float, seed: int) -> None:
    rows = [talk(text) for text in texts]
    small, large = sorted((one, two))
    assert set(split(rows, small, seed=seed)[1]) <= set(split(rows, large, seed=seed)[1])


def test_the_share_is_met_on_many_rows() -> None:
    rows = [talk(f"question {number}") for number in range(5000)]
    assert 400 < len(split(rows, 0.1, seed=3)[1]) < 600


def test_the_seed_decides_and_nothing_else() -> None:
    rows = [talk(f"question {number}") for number in range(200)]
    assert split(rows, 0.3, seed=1) == split(rows, 0.3, seed=1)
    assert split(rows, 0.3, seed=1) != split(rows, 0.3, seed=2)
    # pinned: another value means that every user's split has moved
    assert prompt_hash(talk("question 1"), 0) == PINNED


def test_spelling_and_answer_do_not_count() -> None:
    point = prompt_hash(talk("What is \u00e9?"), 0)
    assert prompt_hash(talk("  what\n\tIS  e\u0301? ", "another answer"), 0) == point
    assert prompt_hash(talk("What is e?"), 0) != point


def test_the_prompt_ends_before_the_first_answer() -> None:
    assert len(prompt(turns("system", "user", "assistant", "user", "assistant"))) == 2
    assert len(prompt(turns("system", "assistant"))) == 1
    assert len(prompt(turns("assistant", "user", "assistant"))) == 2
    assert len(prompt(turns("user"))) == 1


def test_no_share_holds_out_nothing() -> None:
    rows = [talk("a"), talk("b")]
    assert split(rows, 0.0, seed=0) == (tuple(rows), ())


def test_one_prompt_is_trained_on() -> None:
    rows = [talk("a", "1"), talk("A", "2")]
    for seed in range(20):
        assert split(rows, 0.9, seed=seed) == (tuple(rows), ())


def test_two_prompts_give_one_each() -> None:
    rows = [talk("a"), talk("b")]
    for seed in range(20):
        for share in (0.001, 0.999):
            train, held = split(rows, share, seed=seed)
            assert prompt_hash(held[0], seed) < prompt_hash(train[0], seed)
