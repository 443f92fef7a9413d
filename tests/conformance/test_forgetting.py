"""What encoder-decoders forget: probed without their task's prefix and settings, before and after."""

import copy
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tutelage
from tests.evaluate.test_forgetting import AT, PROBES, open_tiny
from tutelage.evaluate.forgetting import forgetting, halved, probe
from tutelage.evaluate.probing import Request, Text
from tutelage.evaluate.writers import CausalWriter, PairedWriter, writer_of
from tutelage.recipe import make_recipe
from tutelage.runs import plain, read_json
from tutelage.show_scores import show_forgetting
from tutelage.tasks.opening import open_for_task
from tutelage.taskspec import Seq2SeqSpec

Made = Callable[[str], Path]
KINDS = ["t5", "bart", "marian"]


def writer(folder: Path) -> PairedWriter:
    asked = Seq2SeqSpec(kind="seq2seq", prefix="say: ", max_target_tokens=8, num_beams=3)
    opened = open_for_task(str(folder), task=asked, max_tokens=128, precision="fp32")
    found = writer_of(opened.task, opened.backbone, opened.plan)
    assert isinstance(found, PairedWriter)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_has_forgotten_nothing_of_itself_and_another_one_is_far_away(kind: str, made: Made) -> None:
    asked = writer(made(kind))
    settings = copy.deepcopy(asked.backbone.model.generation_config)
    base = probe(asked, PROBES)
    assert asked.backbone.model.generation_config.to_dict() == settings.to_dict()
    same = forgetting(base, probe(asked, PROBES, base=base))
    assert set(same.probes) == {"text", "choice", "format"}
    assert all(one.value == pytest.approx(0.0, abs=1e-6) for one in same.probes.values())
    assert same.divergence is not None
    assert same.divergence.value == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        for parameter in asked.backbone.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.2)
    other = forgetting(base, probe(asked, PROBES, base=base))
    assert other.divergence is not None
    assert other.divergence.value > 0.1
    assert other.divergence.n == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_scored_behind_its_beginning_as_transformers_scores_it(kind: str, made: Made) -> None:
    asked = writer(made(kind))
    rows = [asked.row(f"{'blue ' * n}sky", " rain fell all night"[: 8 + 3 * n], AT) for n in range(4)]
    for row, losses in zip(rows, asked.losses(rows)):
        source, target = (torch.from_numpy(ids.astype("int64"))[None] for ids in (row.source, row.ids[1:]))  # type: ignore[union-attr]
        with torch.no_grad():
            logits = asked.backbone.model(input_ids=source, labels=target).logits[0].double()
        expected = torch.nn.functional.cross_entropy(logits, target[0], reduction="none").numpy()
        assert losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_drawn_from_the_model_itself_whatever_its_settings_force(kind: str, made: Made) -> None:
    asked = writer(made(kind))
    model = asked.backbone.model
    model.generation_config.min_new_tokens, model.generation_config.forced_bos_token_id = 2, 5
    drawn = asked.sample([Request(AT, "blue sky")] * 1500, 1, seed=0)
    assert {len(row.ids) for row in drawn} == {2}  # what the decoder begins with, and one token
    source = torch.from_numpy(drawn[0].source.astype("int64"))[None]  # type: ignore[union-attr]
    with torch.no_grad():
        logits = model(input_ids=source, decoder_input_ids=torch.tensor([[asked.task.start]])).logits[0, 0]
    chances = torch.softmax(logits.double(), 0)
    counts = torch.bincount(torch.tensor([int(row.ids[1]) for row in drawn]), minlength=len(chances)) / len(drawn)
    # five standard errors at every token
    assert bool(((counts - chances).abs() <= 5 * (chances * (1 - chances) / len(drawn)).sqrt() + 1e-3).all())
    assert (
        asked.sample([Request(AT, "sky")] * 3, 4, 1)[0].ids.tolist()
        == asked.sample([Request(AT, "sky")] * 3, 4, 1)[0].ids.tolist()
    )
    assert model.generation_config.forced_bos_token_id == 5


def test_half_of_a_text_stands_before_it() -> None:
    assert halved(Text(AT, "one two three four five")) == Text(AT, " three four five", "one two")


def test_models_with_other_tokens_are_compared_by_what_both_were_asked(made: Made, model_folder: Made) -> None:
    model, template = open_tiny(model_folder("llama"))
    base = probe(CausalWriter(model, template), PROBES)
    other = probe(writer(made("t5")), PROBES, base=base)
    found = forgetting(base, other)
    assert found.divergence is None
    assert set(found.probes) == {"choice", "format"}  # one was asked whole texts, the other halves
    retold = forgetting(base, probe(CausalWriter(model, retokenised(template)), PROBES, base=base))
    assert retold.divergence is None
    assert (found.texts, retold.texts, forgetting(base, base).texts) == ("bits_per_byte", "bits_per_byte", "loss")
    assert [line for line in show_forgetting(plain(retold)) if "bits per byte" in line]
    assert not [line for line in show_forgetting(plain(forgetting(base, base))) if "bits per byte" in line]
    parts = [one.likelihood for one in base.predictions["text"]]
    bits = sum(one.nats for one in parts if one) / math.log(2) / sum(one.bytes for one in parts if one)
    assert retold.before["text"].value == pytest.approx(bits)
    assert retold.probes["text"].value == pytest.approx(0.0, abs=1e-6)  # the new token is in none of the texts


def retokenised(template: Any) -> Any:
    changed = copy.deepcopy(template)
    changed.tokenizer.add_tokens(["pomegranates"])
    return changed


@pytest.mark.parametrize("method", ["full", {"kind": "lora", "rank": 4}])
def test_a_run_measures_it_by_default_and_evaluate_too(
    method: Any, made: Made, rows_file: Made, tmp_path: Path
) -> None:
    data = str(rows_file("seq2seq"))
    recipe = make_recipe({
        "model": str(made("t5")), "task": {"kind": "seq2seq", "max_target_tokens": 8, "prefix": "say: "}, "data": {"train": data},
        "method": method, "max_tokens": 128, "optim": {"steps": 10, "batch_size": 8, "learning_rate": 1e-2},
        "precision": "fp32", "threads": 1,
    })  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # its readers cannot do anything about them
        result = tutelage.train(recipe, out=str(tmp_path / "run"))
    found = result["forgetting"]["forgetting"]
    assert set(found["probes"]) == {"common_sense", "general_text", "instructions", "knowledge"}
    assert found["divergence"]["value"] > 0
    assert found["probes"]["general_text"]["value"] != 0
    assert "What was forgotten" in (tmp_path / "run" / "report.html").read_text()
    again = tutelage.evaluate(str(tmp_path / "run"), data=data)["forgetting"]
    assert again["before"]["general_text"] == found["before"]["general_text"]  # the same model by both ways
    assert again["after"]["knowledge"] == found["after"]["knowledge"]
    json.dumps(again, allow_nan=False)
    assert read_json(tmp_path / "run" / "forgetting.json")["rows"] > 0
