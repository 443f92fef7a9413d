"""Rows of classify, tag and extract as tokens with targets, and what is refused with its row or recipe key."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from tutelage.data.rows import Labelled, Plain, Preference, Question, Tagged
from tutelage.data.types import At
from tutelage.encode.layout import make_layout
from tutelage.engine.precision import ExecutionPlan
from tutelage.errors import DataError, RecipeError
from tutelage.tasks import TASKS, Bound, Opening
from tutelage.taskspec import ClassifySpec, ExtractSpec, Seq2SeqSpec, TagSpec, TextSpec

Make = Callable[..., Opening]


def at(number: int, file: str = "train.csv") -> At:
    return At(file, number)


def opened(spec: Any, opening: Opening) -> Any:
    bound: Bound = TASKS.get(spec.kind).open(spec, opening)
    return bound


ROWS = [
    Labelled("the sky", at(2), ("good",)),
    Labelled("it is bad", at(3), ("bad",)),
    Labelled("blue", at(4), ("good",)),
]


def test_classify_reads_the_first_token_of_an_encoder(opening: Make) -> None:
    task = opened(ClassifySpec(), opening(ROWS))
    assert task.names == ("bad", "good")
    assert task.head.labels == ("bad", "good")
    rows = task.fit(ROWS).rows
    assert [row.targets.sources.tolist() for row in rows] == [[0], [0], [0]]
    assert [row.targets.labels.tolist() for row in rows] == [[1], [0], [1]]
    layout = make_layout(rows, share_prefix=False)
    assert layout.sources.tolist() == [0, len(rows[0].ids), len(rows[0].ids) + len(rows[1].ids)]
    assert layout.labels.tolist() == [1, 0, 1]


def test_pairs_have_token_types_and_long_texts_are_dropped_or_cut(opening: Make) -> None:
    pair = Labelled("the sky", at(2), ("good",), second="it is blue")
    long = Labelled("sky " * 90, at(3), ("bad",))
    task = opened(ClassifySpec(), opening([pair, long]))
    fitted = task.fit([pair, long])
    assert fitted.rows[0].types.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [(drop.reason, drop.at.row) for drop in fitted.dropped] == [("over_length", 3)]
    cut = opened(ClassifySpec(), opening([pair, long], over_length="truncate")).fit([long])
    assert len(cut.rows[0].ids) == 64
    assert cut.rows[0].cut
    assert cut.rows[0].ids[-1] == task.tokenizer.sep_token_id


def test_control_token_text_in_the_data_stays_text(opening: Make) -> None:
    row = Labelled("sky [SEP] blue", at(2), ("good",))
    task = opened(ClassifySpec(), opening([row]))
    ids = task.fit([row]).rows[0].ids.tolist()
    assert ids.count(task.tokenizer.sep_token_id) == 1


def test_class_weights_and_several_labels(opening: Make) -> None:
    balanced = opened(ClassifySpec(class_weights="balanced"), opening(ROWS))
    assert balanced.spec.class_weights == {"bad": 1.5, "good": 0.75}
    assert balanced.fit(ROWS).rows[1].targets.weights.tolist() == [1.5]
    given = opened(ClassifySpec(class_weights={"bad": 3.0}), opening(ROWS))
    assert [row.targets.weights.tolist() for row in given.fit(ROWS).rows] == [[1.0], [3.0], [1.0]]
    with pytest.raises(RecipeError, match="unknown label `bda`") as caught:
        opened(ClassifySpec(class_weights={"bda": 3.0}), opening(ROWS))
    assert "did you mean `bad`?" in caught.value.problems[0].fix
    several = [Labelled("sky", at(2), ("a|b",)), Labelled("blue", at(3), ())]
    task = opened(ClassifySpec(multi_label=True, separator="|"), opening(several))
    assert [row.targets.labels.tolist() for row in task.fit(several).rows] == [[[1.0, 1.0]], [[0.0, 0.0]]]


def test_of_several_labels_each_has_its_weight_where_it_holds(opening: Make) -> None:
    rows = [Labelled("sky", at(n), labels) for n, labels in enumerate((("a", "b"), ("a",), (), ("a",)))]
    balanced = opened(ClassifySpec(multi_label=True, class_weights="balanced"), opening(rows))
    assert balanced.spec.class_weights == {"a": pytest.approx(1 / 3), "b": 3.0}
    given = opened(ClassifySpec(multi_label=True, class_weights={"b": 5.0}), opening(rows))
    fitted = given.fit(rows)
    assert {float(row.targets.weights[0]) for row in fitted.rows} == {1.0}
    config = BertConfig(
        vocab_size=len(given.tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=2,
    )  # fmt: skip
    backbone = given.backbone(BertForSequenceClassification(config).eval())
    layout = make_layout(fitted.rows, share_prefix=False)
    scores = backbone.scores(layout).detach()
    labels = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 5.0]))(scores, labels)
    assert given.loss(backbone, layout).value / 4 == pytest.approx(float(expected), rel=1e-6)


def test_a_preference_is_one_row_of_two_texts(opening: Make) -> None:
    rows = [Preference("the sky is blue", "bad", at(2))]
    row = opened(ClassifySpec(num_labels=1), opening(rows)).fit(rows).rows[0]
    assert row.parts == (6, 3)
    assert row.targets.sources.tolist() == [0, 6]
    layout = make_layout([row, row], share_prefix=True)
    assert [(s.start, s.stop, s.parent) for s in layout.segments] == [
        (0, 6, None),
        (6, 9, None),
        (9, 15, None),
        (15, 18, None),
    ]
    assert layout.positions.tolist()[:9] == [0, 1, 2, 3, 4, 5, 0, 1, 2]


def test_a_label_in_test_that_train_lacks_names_its_row(opening: Make) -> None:
    with pytest.raises(DataError, match="the label 'goof' is unknown") as caught:
        opened(ClassifySpec(), opening(ROWS, [Labelled("x", at(9, "test.csv"), ("goof",))]))
    assert caught.value.problems[0].where == "test.csv:9"
    assert "did you mean `good`?" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    "spec, row, words",
    [
        (ClassifySpec(), Labelled("a", at(5), ()), "needs one label"),
        (ClassifySpec(), Labelled("a", at(5), ("x", "y")), "needs one label"),
        (ClassifySpec(num_labels=1), Labelled("a", at(5), ("high",)), "no number"),
    ],
)
def test_rows_that_do_not_fit_the_labels(spec: Any, row: Labelled, words: str, opening: Make) -> None:
    with pytest.raises(DataError, match=words) as caught:
        opened(spec, opening([row]))
    assert caught.value.problems[0].where == "train.csv:5"


@pytest.mark.parametrize(
    "spec, family, key",
    [
        (ClassifySpec(), "encoder-decoder", "task"), (TagSpec(), "encoder-decoder", "task"),
        (ExtractSpec(), "decoder", "task"), (Seq2SeqSpec(), "encoder", "task"),
        (ClassifySpec(verbalised=True), "encoder", "task"), (TextSpec(objective="causal"), "encoder", "task.objective"),
        (ClassifySpec(num_labels=1, multi_label=True), "encoder", "task"),
        (Seq2SeqSpec(instruction="Translate."), "decoder", "task.instruction"),
    ],
)  # fmt: skip
def test_a_task_that_does_not_fit_the_model_names_the_recipe_key(
    spec: Any, family: str, key: str, opening: Make
) -> None:
    with pytest.raises(RecipeError) as caught:
        opened(spec, opening(family=family))
    assert caught.value.problems[0].where == key
    assert caught.value.problems[0].why or caught.value.problems[0].fix


TAGGED = Tagged(("Ada", "lives", "in", "Londonia"), ("U-person", "O", "O", "U-place"), at(1))


def test_the_first_sub_token_of_a_word_carries_its_tag(opening: Make) -> None:
    task = opened(TagSpec(), opening([TAGGED]))
    assert task.names == ["O", "B-person", "I-person", "B-place", "I-place"]
    (row,) = task.fit([TAGGED]).rows
    assert row.targets.sources.tolist() == [1, 2, 3, 4]
    assert row.targets.labels.tolist() == [1, 0, 0, 3]
    assert len(row.ids) > 6  # Londonia is several tokens


def test_an_entity_of_a_known_kind_may_be_longer_than_any_of_training(opening: Make) -> None:
    longer = Tagged(("New", "Londonia"), ("B-place", "I-place"), at(7))
    task = opened(TagSpec(), opening([TAGGED], [longer]))
    (row,) = task.fit([longer]).rows
    assert row.targets.labels.tolist() == [3, 4]
    with pytest.raises(DataError, match="the label 'B-date' is unknown") as caught:
        opened(TagSpec(), opening([TAGGED], [Tagged(("today",), ("B-date",), at(8))]))
    assert caught.value.problems[0].where == "train.csv:8"


def test_long_sentences_become_windows_that_score_each_word_once(opening: Make) -> None:
    words = tuple(f"ada{i % 7}" for i in range(100))
    row = Tagged(words, ("O",) * 100, at(1))
    task = opened(TagSpec(stride=16), opening([row]))
    made = task.windows_of(row)
    assert len(made) > 2
    assert sorted(word for window in made for word in window.words) == list(range(100))
    assert all(len(window.row.ids) <= 64 for window in made)


def test_numbers_as_tags_need_names(opening: Make) -> None:
    row = Tagged(("ada", "lives"), ("1", "0"), at(4))
    with pytest.raises(DataError, match="are numbers") as caught:
        opened(TagSpec(), opening([row]))
    assert caught.value.problems[0].where == "train.csv:4"
    task = opened(TagSpec(labels=["O", "B-person"]), opening([row]))
    assert task.tags_of(row) == ("B-person", "O")


def test_an_answer_is_marked_in_the_window_that_holds_it(opening: Make) -> None:
    context = "the sky is blue . " * 12 + "it was built in 1890 ."
    row = Question(context, "When was it built?", at(1), (("1890", context.index("1890")),))
    task = opened(ExtractSpec(stride=8), opening([row]))
    made = task.windows_of(row)
    assert len(made) > 1
    shown = [task.shown(window.row) for window in made]
    assert shown[-1] == "1890"
    assert shown[0] == "(no answer in this window)"
    last = made[-1].row
    assert last.targets.weights.tolist() == [1.0] + [0.0] * (len(last.ids) - 1)
    assert last.types[0] == 0
    assert last.types[-1] == 1
    assert np.flatnonzero(last.targets.labels).tolist() == [len(last.ids) - 3]


def test_whether_an_answer_may_be_missing_is_learnt_from_the_training_rows(opening: Make) -> None:
    answered = Question("the sky is blue", "What is blue?", at(1), (("sky", 4),))
    without = Question("the sky is blue", "Who?", at(2))
    assert opened(ExtractSpec(), opening([answered])).spec.no_answer is False
    assert opened(ExtractSpec(), opening([answered, without])).spec.no_answer is True
    assert opened(ExtractSpec(no_answer=False), opening([answered, without])).spec.no_answer is False
    assert opened(ExtractSpec(), opening()).spec.no_answer is None


@dataclass
class Constant:
    """Says the same scores of the first places of every row."""

    values: list[list[float]]

    def scores(self, layout: Any) -> torch.Tensor:
        result = torch.zeros(len(layout.sources), len(self.values[0]))
        result[: len(self.values)] = torch.tensor(self.values)
        return result


PLAN = ExecutionPlan("fp32", "cpu", 1, 256, False, True, {})


def test_an_answers_chance_is_its_share_of_all_spans(opening: Make) -> None:
    row = Question("the sky is blue", "sky?", at(1), (("sky", 4),))
    task = opened(ExtractSpec(), opening([row]))
    (window,) = task.windows_of(row)
    scores = [[0.0, 0.0] for _ in window.row.ids]
    scores[window.context + 1] = [2.0, 1.0]  # sky
    (found,) = task.answer(Constant(scores), [row], PLAN, may_be_none=True)
    assert row.context[found.start : found.stop] == "sky"
    places = 1 + len(window.offsets)
    expected = math.exp(3) / ((places - 1 + math.exp(2)) * (places - 1 + math.exp(1)))
    assert found.chance == pytest.approx(expected, rel=1e-5)
    assert found.nothing == pytest.approx(-3)
    assert found.tokens == len(window.row.ids)
    scores[0] = [3.0, 3.0]
    (none,) = task.answer(Constant(scores), [row], PLAN, may_be_none=True)
    assert (none.start, none.stop) == (0, 0)
    (still,) = task.answer(Constant(scores), [row], PLAN, may_be_none=False)
    assert (still.start, still.stop) == (found.start, found.stop)


@pytest.mark.parametrize("threshold, answered", [(0.0, False), (0.9, False), (1.1, True)])
def test_no_answer_wins_by_more_than_its_threshold(threshold: float, answered: bool, opening: Make) -> None:
    row = Question("the sky is blue", "sky?", at(1), (("sky", 4),))
    task = opened(ExtractSpec(no_answer_threshold=threshold), opening([row]))
    (window,) = task.windows_of(row)
    scores = [[0.0, 0.0] for _ in window.row.ids]
    scores[window.context + 1], scores[0] = [2.0, 1.0], [2.0, 2.0]  # sky: 3, nothing: 4
    (found,) = task.answer(Constant(scores), [row], PLAN, may_be_none=True)
    assert row.context[found.start : found.stop] == ("sky" if answered else "")


@pytest.mark.parametrize("most, answer", [(30, "sky is blue"), (3, "sky is blue"), (2, "sky is"), (1, "sky")])
def test_an_answer_has_at_most_so_many_tokens(most: int, answer: str, opening: Make) -> None:
    row = Question("the sky is blue", "sky?", at(1), (("sky", 4),))
    task = opened(ExtractSpec(max_answer_tokens=most), opening([row]))
    (window,) = task.windows_of(row)
    scores = [[0.0, 0.0] for _ in window.row.ids]
    for place, values in enumerate([[9.0, 0.0], [0.0, 1.0], [0.0, 2.0]], window.context + 1):
        scores[place] = values
    (found,) = task.answer(Constant(scores), [row], PLAN, may_be_none=False)
    assert row.context[found.start : found.stop] == answer


@pytest.mark.parametrize("share, count", [(0.01, 1), (0.15, 3), (0.5, 10), (0.99, 20)])
def test_the_share_of_masked_tokens(share: float, count: int, opening: Make) -> None:
    rows = [Plain("the sky is blue " * 5, at(1))]
    task = opened(TextSpec(masked_share=share), opening(rows))
    (row,) = task.fit(rows).rows
    assert len(row.targets.sources) == count
    assert task.tokenizer.decode(row.targets.labels[:1]) in ("the", "sky", "is", "blue")


def test_each_word_has_its_tags_probability(opening: Make) -> None:
    task = opened(TagSpec(), opening([TAGGED]))
    (tags,) = task.tag(Constant([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]), [TAGGED], PLAN)
    assert tags.names[:2] == ("B-person", "O")
    assert tags.chances[0] == pytest.approx(math.exp(2) / (math.exp(2) + 2))
    assert tags.chances[1] == pytest.approx(math.e / (math.e + 2))
