"""The fast search for near-duplicates against the plain one: every pair of texts, sets of Python tuples."""

import random
from itertools import combinations, pairwise

import numpy as np
import pytest

from tutelage.data.quality import near
from tutelage.data.quality.keys import words

VOCABULARY = [f"word{i}" for i in range(3000)]


def plain_set(text: list[str]) -> set[tuple[str, ...]]:
    return {tuple(pair) for pair in pairwise(text)} or {(word,) for word in text}


def plain_jaccard(a: list[str], b: list[str]) -> float:
    one, two = plain_set(a), plain_set(b)
    return len(one & two) / len(one | two) if one | two else 1.0


def perturbed(text: list[str], draw: random.Random, changes: int) -> list[str]:
    copy = list(text)
    for _ in range(changes):
        place = draw.randrange(len(copy))
        if draw.random() < 0.4:
            copy[place] = draw.choice(VOCABULARY)
        elif draw.random() < 0.5 and len(copy) > 3:
            del copy[place]
        else:
            copy.insert(place, draw.choice(VOCABULARY))
    return copy


def corpus(count: int, seed: int) -> list[list[str]]:
    """Texts of 5 to 120 words, a third of which are perturbed copies of others."""
    draw = random.Random(seed)
    texts: list[list[str]] = []
    for _ in range(count):
        if texts and draw.random() < 0.33:
            source = draw.choice(texts)
            texts.append(perturbed(source, draw, draw.randrange(0, 1 + len(source) // 8)))
        else:
            texts.append([draw.choice(VOCABULARY[: draw.choice((60, 3000))]) for _ in range(draw.randrange(5, 120))])
    return texts


def joined(texts: list[list[str]]) -> list[str]:
    return [" ".join(text) for text in texts]


def sketched(texts: list[list[str]], threshold: float = 0.8) -> near.Sketches:
    return near.sketch(joined(texts), joined([[] for _ in texts]), threshold)


def test_sets_and_similarities_are_those_of_the_plain_way() -> None:
    texts = [*corpus(60, 1), [], ["one"], ["one"], ["one", "two"], ["a", "b", "a", "b", "a"]]
    sketches = sketched(texts)
    for i, text in enumerate(texts):
        assert sketches.prompts[i] == len(plain_set(text))
    first, second = np.array(list(combinations(range(len(texts)), 2))).T
    exact = [plain_jaccard(texts[i], texts[j]) for i, j in zip(first, second)]
    assert near.similarities(sketches, first, second) == pytest.approx(exact)


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_pairs_against_all_pairs(threshold: float) -> None:
    texts = corpus(400, 2)
    exact = {(i, j) for i, j in combinations(range(400), 2) if plain_jaccard(texts[i], texts[j]) >= threshold}
    found = list(near.pairs(sketched(texts, threshold), threshold))
    assert len(exact) >= 40
    assert {(pair.first, pair.second) for pair in found} <= exact
    named = {(pair.first, pair.second) for pair in found}
    assert len(named) == len(found)
    assert len(named & exact) >= 0.95 * len(exact)


def test_prompt_and_answer_must_both_be_alike() -> None:
    context = [f"c{i}" for i in range(200)]
    prompts = [[*context, "who"], [*context, "when"], [*context, "who"]]
    answers = [
        ["an", "answer", "of", "five", "words"],
        ["another", "one", "with", "five", "words"],
        ["an", "answer", "of", "five", "words"],
    ]
    found = list(near.pairs(near.sketch(joined(prompts), joined(answers), 0.8), 0.8))
    assert [(pair.first, pair.second, pair.similarity) for pair in found] == [(0, 2, 1.0)]


def test_the_same_words_in_prompt_and_answer_are_not_the_same_set() -> None:
    sketches = near.sketch(joined([["a", "b", "c"], []]), joined([[], ["a", "b", "c"]]), 0.8)
    assert not set(sketches.bands[0]) & set(sketches.bands[1])


def test_rows_without_words_have_no_near_duplicates() -> None:
    assert list(near.pairs(sketched([[], [], ["a"], []]), 0.8)) == []


def test_many_like_rows_cost_no_quadratic_time_and_each_has_a_pair() -> None:
    texts = [[*(f"w{i}" for i in range(40)), f"end{row}"] for row in range(3000)]
    found = list(near.pairs(sketched(texts), 0.8))
    assert {pair.second for pair in found} == set(range(1, 3000))
    assert len(found) < 3000 * 150


def test_only_the_given_rows_are_looked_at() -> None:
    found = list(near.pairs(sketched([["a", "b", "c"]] * 6), 0.8, np.array([1, 4])))
    assert [(pair.first, pair.second) for pair in found] == [(1, 4)]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_the_bands_miss_few_at_the_threshold(threshold: float) -> None:
    bands, width = near.shape(threshold)
    assert bands * width <= 128
    assert (1 - threshold**width) ** bands <= near.MISSED + 1e-9


def test_sketches_do_not_depend_on_how_rows_are_grouped() -> None:
    texts = [words(" ".join(text)) for text in corpus(50, 3)]
    whole = sketched(texts)
    parts = [near.sketch(joined(texts[i : i + 7]), joined([[]] * len(texts[i : i + 7])), 0.8) for i in range(0, 50, 7)]
    assert np.array_equal(np.concatenate([part.bands for part in parts]), whole.bands)
    assert np.array_equal(np.concatenate([part.shingles for part in parts]), whole.shingles)
