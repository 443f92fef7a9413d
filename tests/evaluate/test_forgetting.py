"""Probes and what they say of a model against itself and against another one, on tiny real models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tutelage.data.types import At
from tutelage.encode.template import Template
from tutelage.errors import DataError
from tutelage.evaluate.forgetting import forgetting, probe
from tutelage.evaluate.instructions import obeyed
from tutelage.evaluate.probing import Choice, Request, Text, local, shipped
from tutelage.evaluate.writers import CausalWriter
from tutelage.metrics import Prediction

Folders = Callable[[str], Path]
AT = At("probe", 1)
PROBES = {
    "text": [Text(AT, "Plants need light and water."), Text(AT, " water", "Hydrogen and oxygen make")],
    "choice": [Choice(AT, "The sky is", ("blue", "a long wooden table"), 0), Choice(AT, "Yes or", ("no", "apples"), 0)],
    "open": [Request(AT, "Why is the sky blue?"), Request(AT, "How many apples?"), Request(AT, "Yes?")],
    "format": [Request(AT, "Say yes.", {"kind": "words", "most": 500})],
}


def open_tiny(folder: Path) -> tuple[AutoModelForCausalLM, Template]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, Template.of(AutoTokenizer.from_pretrained(folder), eos_ids=2)


def test_a_model_has_forgotten_nothing_of_itself_and_another_one_is_far_away(model_folder: Folders) -> None:
    model, template = open_tiny(model_folder("llama"))
    base = probe(CausalWriter(model, template), PROBES)
    same = forgetting(base, probe(CausalWriter(model, template), PROBES, base=base))
    assert set(same.probes) == {"text", "choice", "format"}
    assert all(one.value == pytest.approx(0.0, abs=1e-6) for one in same.probes.values())
    assert same.forgotten() == []
    assert same.divergence is not None
    assert same.divergence.value == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.2)
    other = forgetting(base, probe(CausalWriter(model, template), PROBES, base=base))
    assert other.divergence is not None
    assert other.divergence.value > 0.1
    assert other.divergence.n == 3


def test_text_is_scored_as_transformers_scores_it(model_folder: Folders) -> None:
    model, template = open_tiny(model_folder("llama"))
    found = probe(CausalWriter(model, template), {"text": PROBES["text"]}).predictions["text"]
    for one, context in zip(found, ("", "Hydrogen and oxygen make")):
        row = CausalWriter(model, template).row(context, str(one.reference), AT)
        ids = torch.from_numpy(row.ids.astype(np.int64))[None]
        fresh, _ = open_tiny(model_folder("llama"))
        with torch.no_grad():
            logits = fresh(input_ids=ids).logits[0].double()  # type: ignore[operator]
        losses = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
        expected = float(losses[torch.from_numpy(row.weights[1:] > 0)].sum())
        assert one.likelihood is not None
        assert one.likelihood.nats == pytest.approx(expected, rel=1e-4)


def test_the_shipped_probes_can_be_read_and_are_answerable() -> None:
    found = shipped()
    assert set(found) == {"common_sense", "general_text", "instructions", "knowledge", "open_questions"}
    for name in ("common_sense", "knowledge"):
        rows = [row for row in found[name] if isinstance(row, Choice)]
        assert len(rows) == len(found[name])
        assert all(len(set(row.choices)) == 4 for row in rows)
        # The right answer stands in every place about equally often.
        assert {row.gold for row in rows} == {0, 1, 2, 3}
    checks = [row for row in found["instructions"] if isinstance(row, Request)]
    for row in checks:
        assert obeyed("zzz qqq", dict(row.check)) in (True, False)  # every check is known
        assert not obeyed("", dict(row.check))


@pytest.mark.parametrize(
    "check, right, wrong",
    [
        ({"kind": "words", "most": 1}, "Blue.", "It is blue."),
        ({"kind": "one_of", "values": ["yes", "no"]}, "Yes.", "Yes, it is"),
        ({"kind": "pattern", "pattern": "\\d+"}, "60", "60 minutes"),
        ({"kind": "json", "keys": ["name", "age"]}, '{"name": "Anna", "age": 30}', '{"name": "Anna"}'),
        ({"kind": "json", "keys": []}, '["a", "b"]', "a, b"),
        ({"kind": "bullets", "count": 2}, "- a\n- b", "Here:\n- a\n- b"),
        ({"kind": "lowercase"}, "the sea is blue", "The sea is blue"),
        ({"kind": "uppercase"}, "MILK", "Milk"),
        ({"kind": "without", "text": ","}, "Trees stand close", "Trees, and moss"),
        ({"kind": "contains", "text": "window"}, "The Window was open", "The door"),
        ({"kind": "starts", "text": "Certainly"}, "Certainly: a carrot", "A carrot, certainly"),
        ({"kind": "ends", "text": "Have a nice day."}, "Hello. Have a nice day.", "Have a nice day. Bye."),
        ({"kind": "sentences", "count": 2}, "It is round. It shines!", "It is round."),
    ],
)  # fmt: skip
def test_format_checks(check: dict[str, object], right: str, wrong: str) -> None:
    assert obeyed(right, check)
    assert not obeyed(wrong, check)


def test_local_probes_are_read_by_their_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"query": "q", "choices": ["x", "y"], "gold": 1}\n{"text": "words"}\n')
    (tmp_path / "b.txt").write_text("= Title =\n\nA line with more than five words.\n" * 9)
    found = local(str(tmp_path), 4)
    assert [type(row) for row in found["a"]] == [Choice, Text]
    assert len(found["b"]) == 4
    (tmp_path / "bad.jsonl").write_text('{"query": "q", "choices": ["x"], "gold": 3}\n{"nothing": 1}\n')
    with pytest.raises(DataError) as caught:
        local(str(tmp_path), 4)
    assert [problem.where.rsplit(":", 1)[1] for problem in caught.value.problems] == ["1", "2"]


def test_kinds_of_predictions(model_folder: Folders) -> None:
    model, template = open_tiny(model_folder("llama"))
    found = probe(CausalWriter(model, template), PROBES).predictions
    assert all(isinstance(one, Prediction) for rows in found.values() for one in rows)
    assert [one.output for one in found["format"]] == ["obeyed"] or str(found["format"][0].output).startswith("not:")
