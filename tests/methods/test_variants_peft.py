"""DoRA, PiSSA and parts of a model against the `peft` package: adapters cross in both directions with equal logits."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from tutelage.engine.dora_linear import DoraLinear
from tutelage.engine.residual_linear import ResidualLinear
from tutelage.errors import ModelError, RecipeError
from tutelage.methods import METHODS
from tutelage.methods.adapter_file import CONFIG, WEIGHTS
from tutelage.methods.lora import attach, lora_layers, merge
from tutelage.recipe import LoraSpec

Folders = Callable[[str], Path]
IDS = torch.tensor([[5, 17, 300, 42, 8, 99, 250, 3]])
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"rslora": True}, "dora": {"dora": True}, "pissa": {"init": "pissa"}, "pissa fast": {"init": "pissa_niter_16"},
    "dora and rslora": {"dora": True, "rslora": True}, "pissa and rslora": {"init": "pissa", "rslora": True},
    "dora and pissa": {"dora": True, "init": "pissa"}, "dora of a layer": {"dora": True, "layers": [1], "target_modules": "mlp"},
}  # fmt: skip
variants = pytest.mark.parametrize("variant", VARIANTS)
kinds = pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.double()  # type: ignore[no-any-return]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def spec_of(variant: str) -> LoraSpec:
    return LoraSpec(**{"rank": 4, "alpha": 12, **VARIANTS[variant]})


def prepared(folder: Path, spec: LoraSpec, seed: int = 0, load: Callable[[Path], Any] = load) -> Any:
    """A model with our adapter, every trained tensor moved away from its start, magnitudes too."""
    model = load(folder)
    METHODS.get("lora").prepare(model, spec, seed=seed)
    torch.manual_seed(seed + 1)
    for _, layer in lora_layers(model):
        layer.b.data += torch.randn_like(layer.b) * 0.2
        if isinstance(layer, DoraLinear):
            layer.m.data *= 0.7 + 0.6 * torch.rand_like(layer.m)
    return model


def saved(model: Any, spec: LoraSpec, folder: Path, base: Path) -> Path:
    folder.mkdir()
    METHODS.get("lora").save(model, spec, folder, base=str(base))
    return folder


def made_by_peft(base: Path, folder: Path, **options: Any) -> torch.Tensor:
    """Logits of an adapter that peft made, trained tensors randomised; it is saved into `folder`."""
    config = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options}
    torch.manual_seed(3)
    model = peft.get_peft_model(load(base), peft.LoraConfig(**config))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += torch.randn_like(parameter) * 0.2
        if "magnitude" in name:
            parameter.data *= 0.7 + 0.6 * torch.rand_like(parameter)
    model.save_pretrained(folder)
    return logits(model)


@variants
@kinds
def test_peft_loads_what_we_save_on_the_original_base(
    kind: str, variant: str, model_folder: Folders, tmp_path: Path
) -> None:
    base, spec = model_folder(kind), spec_of(variant)
    model = prepared(base, spec)
    ours, untouched = logits(model), logits(load(base))
    assert difference(ours, untouched) > 0.05  # or nothing would be compared
    adapter = saved(model, spec, tmp_path / "adapter", base)
    assert difference(ours, logits(peft.PeftModel.from_pretrained(load(base), adapter))) <= 1e-5
    again = load(base)
    attach(again, adapter)
    assert difference(logits(again), ours) <= 1e-5
    merge(model)
    assert not list(lora_layers(model))
    assert difference(logits(model), ours) <= 1e-5


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"use_dora": True, "use_rslora": True}, {"init_lora_weights": "pissa"}], ids=str
)
@kinds
def test_we_load_what_peft_saves(kind: str, options: dict[str, Any], model_folder: Folders, tmp_path: Path) -> None:
    theirs = made_by_peft(model_folder(kind), tmp_path / "peft", **options)
    model = load(model_folder(kind))
    attach(model, tmp_path / "peft")
    assert difference(logits(model), theirs) <= 1e-5
    spec = LoraSpec(rank=4, alpha=12, dora="use_dora" in options, rslora="use_rslora" in options)
    again = saved(model, spec, tmp_path / "again", model_folder(kind))
    assert difference(logits(peft.PeftModel.from_pretrained(load(model_folder(kind)), again)), theirs) <= 1e-5
    merge(model)
    assert difference(logits(model), theirs) <= 1e-5


@variants
def test_a_new_adapter_computes_what_the_model_does_and_only_it_trains(variant: str, model_folder: Folders) -> None:
    model = load(model_folder("llama"))
    before, weights = logits(model), {n: p.clone() for n, p in model.named_parameters()}
    trainable = METHODS.get("lora").prepare(model, spec_of(variant), seed=0)
    assert difference(logits(model), before) <= 1e-6
    letters = {"a", "b", "m"} if "dora" in variant else {"a", "b"}
    assert {name.rpartition(".")[2] for name in trainable.parameters} == letters
    assert set(trainable.parameters) == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, p in model.named_parameters():
        assert p.requires_grad or torch.equal(
            p, weights[name.replace(".base.base.", ".base.").replace(".base.inner", "")]
        )


@variants
def test_what_is_saved_is_loaded_bit_for_bit(variant: str, model_folder: Folders, tmp_path: Path) -> None:
    base, spec = model_folder("llama"), spec_of(variant)
    adapter = saved(prepared(base, spec), spec, tmp_path / "one", base)
    model = load(base)
    attach(model, adapter)
    config = json.loads((adapter / CONFIG).read_text())
    now = LoraSpec(rank=config["r"], alpha=config["lora_alpha"], dora=spec.dora, rslora=spec.rslora)
    again = saved(model, now, tmp_path / "two", base)
    one, two = load_file(adapter / WEIGHTS), load_file(again / WEIGHTS)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert json.loads((again / CONFIG).read_text()) == {**config, "lora_dropout": now.dropout}


# PiSSA


def test_pissa_takes_the_largest_singular_values(model_folder: Folders) -> None:
    """As the paper's eq. 2 and 3, held to torch's own SVD; by iteration nearly so."""
    plain = dict(load(model_folder("llama")).named_modules())
    exact = dict(lora_layers(prepared_only(model_folder("llama"), "pissa")))
    fast = dict(lora_layers(prepared_only(model_folder("llama"), "pissa_niter_16")))
    for name, layer in exact.items():
        weight = plain[name].weight.detach()
        u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
        best = (u[:, :4] * s[:4]) @ v[:4]
        assert difference(layer.delta().double(), best) <= 1e-4  # fp32's, where two values lie close
        assert difference(fast[name].delta().double(), best) <= 1e-2
        torch.testing.assert_close(layer.a.norm(dim=1), layer.b.norm(dim=0), rtol=1e-4, atol=0)
        assert isinstance(layer.base, ResidualLinear)
        assert torch.equal(layer.base.module().weight, weight)


def prepared_only(folder: Path, init: Any) -> Any:
    model = load(folder)
    METHODS.get("lora").prepare(model, LoraSpec(rank=4, alpha=12, init=init), seed=0)
    return model


def test_the_iteration_draws_by_the_seed_alone(model_folder: Folders) -> None:
    drawn = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        drawn.append(dict(lora_layers(prepared_only(model_folder("llama"), "pissa_niter_4"))))
    assert all(torch.equal(layer.a, drawn[1][name].a) for name, layer in drawn[0].items())


def test_a_saved_pissa_adapter_is_plain_lora_of_twice_the_rank(model_folder: Folders, tmp_path: Path) -> None:
    spec = spec_of("pissa")
    adapter = saved(prepared(model_folder("llama"), spec), spec, tmp_path / "adapter", model_folder("llama"))
    config = json.loads((adapter / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 24, True)


def test_a_rank_above_the_number_of_singular_values_is_refused(model_folder: Folders) -> None:
    with pytest.raises(RecipeError, match="PiSSA of rank 64") as caught:
        METHODS.get("lora").prepare(load(model_folder("llama")), LoraSpec(rank=64, init="pissa"), seed=0)
    assert caught.value.problems[0].where == "method.rank"


# Refused


def test_an_adapter_to_continue_must_be_of_the_recipes_kind(model_folder: Folders, tmp_path: Path) -> None:
    made_by_peft(model_folder("llama"), tmp_path / "peft", use_dora=True)
    spec = LoraSpec(rank=4, alpha=12, adapter=str(tmp_path / "peft"))
    with pytest.raises(RecipeError, match="dora True") as caught:
        METHODS.get("lora").prepare(load(model_folder("llama")), spec, seed=0)
    assert "dora: true" in caught.value.problems[0].fix


def test_magnitudes_that_are_missing_or_not_announced_are_refused(model_folder: Folders, tmp_path: Path) -> None:
    made_by_peft(model_folder("llama"), tmp_path / "dora", use_dora=True)
    made_by_peft(model_folder("llama"), tmp_path / "lora")
    texts = {name: (tmp_path / name / CONFIG).read_text() for name in ("dora", "lora")}
    (tmp_path / "lora" / CONFIG).write_text(texts["dora"])
    (tmp_path / "dora" / CONFIG).write_text(texts["lora"])
    with pytest.raises(ModelError, match=r"lora_magnitude_vector of .* is missing"):
        attach(load(model_folder("llama")), tmp_path / "lora")
    with pytest.raises(ModelError, match="tensors other than LoRA's"):
        attach(load(model_folder("llama")), tmp_path / "dora")


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 60,
    }
    AutoModelForMaskedLM.from_config(CONFIG_MAPPING["bert"](**sizes)).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_encoders_have_every_variant_too(tmp_path: Path, encoder_folder: Path) -> None:
    def of(folder: Path) -> Any:
        torch.manual_seed(9)
        return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    ids = torch.tensor([[2, 9, 14, 7, 3]])
    for number, (dora, init) in enumerate(itertools.product((False, True), ("kaiming", "pissa"))):
        spec = LoraSpec(rank=4, alpha=12, dora=dora, init=init)
        model = prepared(encoder_folder, spec, load=of)
        adapter = saved(model, spec, tmp_path / str(number), encoder_folder)
        theirs = peft.PeftModel.from_pretrained(of(encoder_folder), adapter).eval()
        with torch.no_grad():
            assert difference(model(input_ids=ids).logits, theirs(input_ids=ids).logits) <= 1e-5
