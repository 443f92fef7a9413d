"""Full fine-tuning of a part: patterns for parameter names choose what trains."""

from typing import Any

import pytest

from tutelage.errors import RecipeError
from tutelage.methods import METHODS
from tutelage.methods.patterns import matching
from tutelage.models.tiny import tiny_model
from tutelage.recipe import FullSpec

NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{part}.weight" for i in range(12) for part in ("self_attn.q_proj", "mlp.up_proj")),
    "model.norm.weight",
]


@pytest.mark.parametrize(
    "pattern, count",
    [("embed_tokens", 1), ("layers.0-3", 8), ("layers.1", 2), ("layers.*.mlp", 12), ("q_proj", 12), ("*_proj.weight", 24),
     ("norm", 1), ("model", 26), ("layers.10-99.mlp", 2)],
)  # fmt: skip
def test_components_stand_one_after_the_other(pattern: str, count: int) -> None:
    assert len(matching([pattern], NAMES, "x")) == count


def trained(spec: FullSpec, kind: str = "llama") -> set[str]:
    model = tiny_model(kind)
    trainable = METHODS.get("full").prepare(model, spec, seed=0)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(trainable.parameters)
    return set(trainable.parameters)


def test_train_chooses_and_freeze_takes_away() -> None:
    everything = trained(FullSpec())
    assert trained(FullSpec(freeze=["embed_tokens", "layers.0"])) == {
        n for n in everything if "embed" not in n and "layers.0." not in n
    }
    assert trained(FullSpec(train=["layers.1"], freeze=["mlp"])) == {
        n for n in everything if "layers.1." in n and "mlp" not in n
    }


def test_a_tied_embedding_answers_to_both_names() -> None:
    assert "model.embed_tokens.weight" not in trained(FullSpec(freeze=["lm_head"]))
    assert trained(FullSpec(train=["lm_head"])) == {"model.embed_tokens.weight"}
    assert "lm_head.weight" in trained(FullSpec(freeze=["embed_tokens"]), "qwen3")  # not tied


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"freeze": ["embed_token"]}, ["method.freeze", "`embed_token`", "did you mean `embed_tokens`?"]),
        (
            {"train": ["layers.0.mpl", "nom"]},
            ["`layers.0.mpl`", "did you mean `layers.0.mlp`?", "did you mean `norm`?"],
        ),
        ({"train": ["layers.7"]}, ["method.train", "`layers.7`", "did you mean `layers."]),
        ({"freeze": ["model", "lm_head"]}, ["nothing is left to train", "method.freeze"]),
    ],
)
def test_a_pattern_that_matches_nothing_is_a_sentence(keys: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        trained(FullSpec(**keys))
    assert all(words in str(caught.value) for words in said), str(caught.value)
