"""The gate: what it lets through, and that each way in which an export can differ is seen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers

from tutelage.errors import CheckFailedError
from tutelage.export.folder_replica import FolderReplica
from tutelage.export.parity import Case, Parity, enforce, make_cases, measure, problems
from tutelage.export.prompts import hard_texts, held_out
from tutelage.export.types import Bounds, Source
from tutelage.methods.opening import load_located, locate

EXACT = Bounds(logit_difference=1e-4, agreement=1.0, loss=1e-4)
FINE = Parity("test", 5, True, 100, 0, 1.0, 0.0, 20.0, 5, 5, 2.0, 2.0, 10, 10, True, (), 0)


@pytest.fixture(scope="module")
def source(lora_run: Path) -> Source:
    located = locate(str(lora_run))
    opened = load_located(located, torch.float32, merge=False)
    return Source(located, opened.model, opened.tokenizer, opened.template)


@pytest.fixture(scope="module")
def cases(source: Source) -> list[Case]:
    rows, _ = held_out(source.located.run, source.template, 4, print)
    return list(make_cases(source, rows, 10))


def replica_of(source: Source, change: Any = None) -> FolderReplica:
    opened = load_located(source.located, torch.float32)
    if change is not None:
        with torch.no_grad():
            change(opened.model)
    return FolderReplica(opened.model, opened.template, "test")


def gate(source: Source, replica: FolderReplica, cases: list[Case]) -> Parity:
    trained = FolderReplica(source.model, source.template, "trained")
    return measure(source, replica, trained, cases, hard_texts(80), True)


def test_the_same_model_passes(source: Source, cases: list[Case]) -> None:
    parity = gate(source, replica_of(source), cases)
    assert parity.agreement == 1.0
    assert parity.loss is not None
    assert parity.loss > 1
    enforce(parity, EXACT, "here")


def test_teacher_forcing_decides_what_greedy_decoding_would_answer(source: Source, cases: list[Case]) -> None:
    """The same verdict, case by case, as letting the changed model answer by itself."""
    changed = replica_of(source, lambda model: model.model.layers[1].mlp.down_proj.weight.mul_(0.8))
    theirs = make_cases(
        replace(source, model=changed.model), held_out(source.located.run, source.template, 4, print)[0], 10
    )
    equal = [mine.answer == other.answer for mine, other in zip(cases, theirs)]
    verdicts = [gate(source, changed, [case]).agreement == 1.0 for case in cases]
    assert verdicts == equal
    assert not all(equal)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.model.layers[0].self_attn.q_proj.weight.copy_(model.model.layers[0].self_attn.q_proj.weight.flip(0)),
        lambda model: model.model.norm.weight.mul_(1.01),
        lambda model: model.model.embed_tokens.weight[5].add_(0.5),
        lambda model: model.model.norm.weight.fill_(float("nan")),
    ],
)  # fmt: skip
def test_other_weights_fail(source: Source, cases: list[Case], change: Any) -> None:
    with pytest.raises(CheckFailedError):
        enforce(gate(source, replica_of(source, change), cases), EXACT, "here")


def test_another_tokenizer_fails(source: Source, cases: list[Case]) -> None:
    replica = replica_of(source)
    steps = [pre_tokenizers.Digits(individual_digits=True), source.template.literal.pre_tokenizer]
    replica.template.literal.pre_tokenizer = pre_tokenizers.Sequence(steps)
    parity = gate(source, replica, cases)
    assert parity.same_texts < parity.texts
    assert "tokenises" in str(next(problems(parity, EXACT, "here")))


def test_a_reference_that_stops_is_followed(source: Source) -> None:
    """A model that always says its stop id: the export that says another token last does not stop there."""

    def says(token: int) -> Any:
        def change(model: Any) -> None:
            weight = model.get_output_embeddings().weight.clone()
            model.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)
            model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(weight)), requires_grad=False)
            model.lm_head.bias[token] = 1e4

        return change

    stops, runs_on = replica_of(source, says(2)), replica_of(source, says(7))
    rows, _ = held_out(source.located.run, source.template, 3, print)
    own = replace(source, model=stops.model)
    answers = list(make_cases(own, rows, 6))
    assert all(case.stopped and case.answer == (2,) for case in answers)
    assert measure(own, stops, stops, answers, [], True).same_stops == 3
    bad = measure(own, runs_on, stops, answers, [], True)
    assert bad.same_stops == 0
    assert any("does not stop" in problem.what for problem in problems(bad, Bounds(agreement=0.5), "here"))


@pytest.mark.parametrize(
    "change, word",
    [
        ({"template_equal": False}, "chat template"), ({"stop_ids_missing": (2,)}, "stop token"), ({"early_stops": 1}, "early"),
        ({"same_texts": 9}, "tokenises 1 of 10"), ({"agreement": 0.99}, "answers otherwise"), ({"same_stops": 4}, "does not stop"),
        ({"logit_difference": 2e-4}, "logits differ"), ({"export_loss": 2.1}, "loss on held-out"),
        ({"logit_difference": float("nan")}, "logits differ"), ({"export_loss": float("nan")}, "loss on held-out"),
    ],
)  # fmt: skip
def test_each_difference_has_its_sentence(change: dict[str, Any], word: str) -> None:
    assert list(problems(FINE, EXACT, "here")) == []
    found = list(problems(replace(FINE, **change), EXACT, "here"))
    assert len(found) == 1
    assert word in found[0].what


def test_rounding_grows_with_the_logits() -> None:
    """fp32 has 24 bits: of a logit of 45, 1.3e-4 is what two ways of computing it differ by."""
    wide = replace(FINE, logit_difference=1.3e-4, largest_logit=45.0)
    assert list(problems(wide, EXACT, "here")) == []
    assert list(problems(replace(wide, largest_logit=20.0), EXACT, "here"))


def test_ties_are_not_held_against_an_export(source: Source, cases: list[Case]) -> None:
    """A head of zeros ties every token with every other: whatever is chosen, nothing was decided."""
    flat = replica_of(source)
    flat.model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(flat.model.lm_head.weight), requires_grad=False)
    other = replica_of(
        source, lambda model: model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight.flip(0))
    )
    parity = measure(source, other, flat, cases, [], True)
    assert parity.agreement == 1.0
    assert parity.ties > 0


def test_hard_texts_are_many_and_the_same_each_time() -> None:
    texts = hard_texts(2000)
    assert len(texts) == 2000
    assert len(set(texts)) > 1900
    assert texts == hard_texts(2000)
