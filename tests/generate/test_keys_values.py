import torch

from tutelage.generate.keys_values import CacheShape, Kept, KeysValues, Pools, shared_length

SHAPE = CacheShape(2, 3, 4, torch.float32)


def filled(ids: list[int], pools: Pools | None = None) -> KeysValues:
    state = KeysValues(pools or Pools(SHAPE))
    state.reserve(len(ids))
    state.data.normal_()
    state.ids = list(ids)
    return state


def test_growing_keeps_what_was_stored() -> None:
    state = filled(list(range(10)))
    before = state.data[:, :, :, :10].clone()
    state.reserve(500)
    assert state.room >= 500
    assert torch.equal(state.data[:, :, :, :10], before)


def test_a_beginning_is_a_copy() -> None:
    old, new = filled(list(range(10))), KeysValues(Pools(SHAPE))
    new.take(old, 6)
    assert new.ids == old.ids[:6]
    assert torch.equal(new.data[:, :, :, :6], old.data[:, :, :, :6])
    old.data.zero_()
    assert new.data[:, :, :, :6].abs().sum() > 0


def test_sequences_of_like_length_lie_side_by_side_and_close_ranks() -> None:
    pools = Pools(SHAPE)
    states = [filled([i] * (i + 1), pools) for i in range(5)]
    pool = states[0].pool
    assert pool is not None
    assert [state.place for state in states] == [0, 1, 2, 3, 4]
    before = [state.data[:, :, :, : len(state.ids)].clone() for state in states]
    states[1].rest()
    states[3].reserve(200)
    assert pool.members == [states[0], states[4], states[2]]
    assert states[3].room == 256
    assert states[1].room == 2
    for state, held in zip(states, before):
        assert torch.equal(state.data[:, :, :, : len(state.ids)], held)
    for state in states:
        state.drop()
    assert pool.data.numel() == 0
    assert states[0].ids == []


def test_what_lies_behind_a_sequence_is_finite() -> None:
    state = KeysValues(Pools(SHAPE))
    state.reserve(3)
    assert torch.equal(state.data, torch.zeros_like(state.data))


def test_shared_lengths() -> None:
    assert shared_length([], [1]) == 0
    assert shared_length([1, 2, 3], [1, 2, 4]) == 2
    assert shared_length([1, 2], [1, 2, 3]) == 2


def test_the_longest_beginning_of_the_same_owner_is_found() -> None:
    kept = Kept(10_000)
    one, other = filled([1, 2, 3, 4]), filled([1, 2, 9])
    kept.add("a", one)
    kept.add("a", other)
    kept.add("b", filled([1, 2, 3, 4, 5]))
    assert kept.best("a", [1, 2, 3, 7]) == (one, 3)
    assert kept.best("a", [1, 2, 9, 9]) == (other, 3)
    assert kept.best("c", [1, 2, 3]) == (None, 0)


def test_what_another_continues_is_dropped_and_the_oldest_go_first() -> None:
    kept = Kept(3 * 64)
    kept.add("", filled([1, 2]))
    kept.add("", filled([1, 2, 3]))
    assert kept.tokens == 64  # the first was a beginning of the second; neither rests, so memory is held for 64
    kept.add("", filled([5]))
    kept.add("", filled([6]))
    kept.best("", [1, 2, 3])  # used: now the newest
    kept.add("", filled([7]))
    assert kept.best("", [5]) == (None, 0)
    assert kept.best("", [1, 2, 3])[1] == 3
