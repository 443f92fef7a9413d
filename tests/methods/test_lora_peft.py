"""LoRA against the `peft` package: adapters cross in both directions and give the same logits."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tutelage.engine.lora_linear import LoraLinear
from tutelage.errors import MissingInputError, ModelError, RecipeError
from tutelage.methods import METHODS
from tutelage.methods.adapter_file import CONFIG, WEIGHTS
from tutelage.methods.lora import attach, lora_layers, merge
from tutelage.methods.targets import target_names
from tutelage.recipe import LoraSpec

Folders = Callable[[str], Path]
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}
IDS = torch.tensor([[5, 17, 300, 42, 8, 99, 250, 3]])
SETTINGS = [
    pytest.param({}, id="alpha over rank"),
    pytest.param({"rslora": True}, id="rslora"),
    pytest.param({"targets": True}, id="target list"),
]


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.double()  # type: ignore[no-any-return]


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert float((ours - theirs).norm() / theirs.norm()) <= tolerance


def spec_for(kind: str, options: dict[str, bool]) -> LoraSpec:
    targets = TARGETS[kind] if options.get("targets") else "all-linear"
    return LoraSpec(rank=4, alpha=12, rslora=options.get("rslora", False), target_modules=targets)


def prepared(folder: Path, spec: LoraSpec, seed: int = 0) -> Any:
    """A model with our adapter whose B is not zero any more."""
    model = load(folder)
    METHODS.get("lora").prepare(model, spec, seed=seed)
    torch.manual_seed(seed + 1)
    for _, layer in lora_layers(model):
        layer.b.data.normal_(std=0.3)
    return model


def saved(model: Any, spec: LoraSpec, folder: Path, base: Path) -> Path:
    folder.mkdir()
    METHODS.get("lora").save(model, spec, folder, base=str(base))
    return folder


def made_by_peft(base: Path, folder: Path, **options: Any) -> tuple[Path, torch.Tensor]:
    """An adapter folder that peft made, and its logits."""
    config = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options}
    torch.manual_seed(3)
    model = peft.get_peft_model(load(base), peft.LoraConfig(**config))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder, logits(model)


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_loads_our_adapter(kind: str, options: dict[str, bool], model_folder: Folders, tmp_path: Path) -> None:
    base, spec = model_folder(kind), spec_for(kind, options)
    model = prepared(base, spec)
    adapter = saved(model, spec, tmp_path / "adapter", base)
    untouched = logits(load(base))
    assert float((logits(model) - untouched).norm() / untouched.norm()) > 0.05  # or nothing would be compared
    assert_same(logits(model), logits(peft.PeftModel.from_pretrained(load(base), adapter)))
    names = peft.PeftConfig.from_pretrained(adapter)
    assert (names.r, names.lora_alpha, names.use_rslora) == (4, 12, spec.rslora)


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_we_load_an_adapter_of_peft(kind: str, options: dict[str, bool], model_folder: Folders, tmp_path: Path) -> None:
    spec = spec_for(kind, options)
    adapter, theirs = made_by_peft(
        model_folder(kind), tmp_path / "peft", use_rslora=spec.rslora, target_modules=spec.target_modules
    )
    model = load(model_folder(kind))
    attach(model, adapter)
    assert_same(logits(model), theirs)
    merge(model)
    assert_same(logits(model), theirs)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen3"])
def test_all_linear_means_the_layers_that_peft_means(kind: str, model_folder: Folders) -> None:
    model = load(model_folder(kind))
    ours = set(target_names(model, "all-linear"))
    wrapped = peft.get_peft_model(
        load(model_folder(kind)), peft.LoraConfig(target_modules="all-linear")
    ).base_model.model
    theirs = {name for name, module in wrapped.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
    assert ours == theirs
    assert ours


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_merged_equals_unmerged_and_puts_the_layers_back(kind: str, model_folder: Folders) -> None:
    model = prepared(model_folder(kind), spec_for(kind, {}))
    before = logits(model)
    merge(model)
    assert not list(lora_layers(model))
    assert {name: type(m) for name, m in model.named_modules()} == {
        name: type(m) for name, m in load(model_folder(kind)).named_modules()
    }
    assert_same(logits(model), before)


def test_a_new_adapter_changes_nothing_and_only_it_trains(model_folder: Folders) -> None:
    model = load(model_folder("llama"))
    before = logits(model)
    trainable = METHODS.get("lora").prepare(model, LoraSpec(rank=4), seed=0)
    assert torch.equal(logits(model), before)
    assert all(name.rpartition(".")[2] in ("a", "b") for name in trainable.parameters)
    assert set(trainable.parameters) == {name for name, p in model.named_parameters() if p.requires_grad}
    layers = len(target_names(load(model_folder("llama")), "all-linear"))
    assert len(trainable.parameters) == 2 * layers


def test_a_is_drawn_like_pefts_and_by_the_seed(model_folder: Folders) -> None:
    """Uniform in ±1/√in: Kaiming's with a = √5."""
    drawn = [dict(lora_layers(prepared(model_folder("llama"), LoraSpec(rank=16), seed))) for seed in (0, 0, 1)]
    for name, layer in drawn[0].items():
        assert torch.equal(layer.a, drawn[1][name].a)
        assert not torch.equal(layer.a, drawn[2][name].a)
        bound = 1 / math.sqrt(layer.base.in_features)
        assert 0.95 * bound < float(layer.a.abs().max()) <= bound
        assert float(layer.a.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


Q, K = "model.layers.1.self_attn.q_proj", "model.layers.0.self_attn.k_proj"


@pytest.mark.parametrize(
    "wanted, targets, layers", [([Q], ["q_proj"], [1]), ([K, Q], [K, Q], None)], ids=["one layer", "mixed"]
)
def test_layers_of_a_part_of_the_model_are_saved_so_that_peft_finds_them(
    wanted: list[str], targets: list[str], layers: list[int] | None, model_folder: Folders, tmp_path: Path
) -> None:
    base = model_folder("llama")
    spec = LoraSpec(rank=4, alpha=12, target_modules=wanted)
    model = prepared(base, spec)
    adapter = saved(model, spec, tmp_path / "adapter", base)
    config = json.loads((adapter / CONFIG).read_text())
    assert (config["target_modules"], config["layers_to_transform"]) == (targets, layers)
    loaded = peft.PeftModel.from_pretrained(load(base), adapter)
    assert_same(logits(model), logits(loaded))
    assert {n for n, m in loaded.base_model.model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)} == {
        *wanted
    }


# What is refused


def test_an_unknown_target_is_refused_with_a_suggestion(model_folder: Folders) -> None:
    with pytest.raises(RecipeError, match=r"no linear layer called `q_prj`(.|\n)*did you mean `q_proj`"):
        target_names(load(model_folder("llama")), ["q_prj", "v_proj"])


REFUSED: dict[str, dict[str, Any]] = {
    "modules_to_save": {"modules_to_save": ["lm_head"]}, "bias": {"bias": "all"},
    "rank_pattern": {"rank_pattern": {"q_proj": 2}}, "alpha_pattern": {"alpha_pattern": {"q_proj": 2}},
    "lora_bias": {"lora_bias": True},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_we_do_not_compute_are_refused(name: str, model_folder: Folders, tmp_path: Path) -> None:
    base = load(model_folder("mistral"))  # an untied head, which modules_to_save may copy
    config = peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **REFUSED[name]})
    if name == "lora_bias":
        peft.get_peft_model(
            load(model_folder("gpt2")), peft.LoraConfig(lora_bias=True, target_modules=["c_attn"], r=4)
        ).save_pretrained(tmp_path)
    else:
        peft.get_peft_model(base, config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"{name}\b.*not supported") as caught:
        attach(load(model_folder("mistral")), tmp_path)
    assert caught.value.problems[0].where == str(tmp_path / CONFIG)


@pytest.mark.parametrize("how", ["pissa_niter_4", "olora"])
def test_adapters_of_a_changed_base_are_refused(how: str, model_folder: Folders, tmp_path: Path) -> None:
    """These initialisations take their part out of the base weights: added to the plain base they mean another model."""
    adapter, _ = made_by_peft(model_folder("llama"), tmp_path / "peft", init_lora_weights=how)
    with pytest.raises(ModelError, match="init_lora_weights"):
        attach(load(model_folder("llama")), adapter)


@pytest.mark.parametrize("how", [True, False, "gaussian", "orthogonal"])
def test_initialisations_of_the_adapter_alone_are_fine(how: Any, model_folder: Folders, tmp_path: Path) -> None:
    adapter, theirs = made_by_peft(model_folder("llama"), tmp_path / "peft", init_lora_weights=how)
    model = load(model_folder("llama"))
    attach(model, adapter)
    assert_same(logits(model), theirs)


def test_a_setting_of_a_later_peft_is_refused(model_folder: Folders, tmp_path: Path) -> None:
    adapter, _ = made_by_peft(model_folder("llama"), tmp_path / "peft")
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**config, "use_tomorrows_trick": True}))
    with pytest.raises(ModelError, match="use_tomorrows_trick"):
        attach(load(model_folder("llama")), adapter)
    (adapter / CONFIG).write_text(json.dumps({**config, "use_tomorrows_trick": False, "tomorrow_config": None}))
    attach(load(model_folder("llama")), adapter)


def test_another_rank_or_scaling_than_the_recipes_is_refused(model_folder: Folders, tmp_path: Path) -> None:
    adapter, _ = made_by_peft(model_folder("llama"), tmp_path / "peft")
    for spec in (
        LoraSpec(rank=8, alpha=12, adapter=str(adapter)), LoraSpec(rank=4, alpha=8, adapter=str(adapter)),
        LoraSpec(rank=4, alpha=12, rslora=True, adapter=str(adapter)),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match="the adapter has rank 4, alpha 12, rslora False, dora False") as caught:
            METHODS.get("lora").prepare(load(model_folder("llama")), spec, seed=0)
        assert caught.value.problems[0].where == "method.adapter"
        assert "rank: 4, alpha: 12" in caught.value.problems[0].fix


def test_the_fix_for_an_rslora_adapter_says_so(model_folder: Folders, tmp_path: Path) -> None:
    adapter, _ = made_by_peft(model_folder("llama"), tmp_path / "peft", use_rslora=True)
    with pytest.raises(RecipeError, match="rslora: true"):
        METHODS.get("lora").prepare(
            load(model_folder("llama")), LoraSpec(rank=4, alpha=12, adapter=str(adapter)), seed=0
        )


def test_an_adapter_of_another_model_is_refused(model_folder: Folders, tmp_path: Path) -> None:
    adapter, _ = made_by_peft(model_folder("llama"), tmp_path / "peft")
    with pytest.raises(ModelError, match="which this model lacks") as caught:
        attach(load(model_folder("gpt2")), adapter)
    assert str(model_folder("llama")) in caught.value.problems[0].fix
    tensors = load_file(adapter / WEIGHTS)
    first = next(key for key in tensors if "lora_A" in key)
    save_file({**tensors, first: tensors[first][:, :-1].contiguous()}, adapter / WEIGHTS)
    with pytest.raises(ModelError, match="missing or has another shape"):
        attach(load(model_folder("llama")), adapter)


def test_a_folder_that_is_no_lora_adapter_is_refused(model_folder: Folders, tmp_path: Path) -> None:
    model = load(model_folder("llama"))
    with pytest.raises(MissingInputError, match="not a PEFT adapter"):
        attach(model, tmp_path)
    adapter, _ = made_by_peft(model_folder("llama"), tmp_path / "peft")
    text = (adapter / CONFIG).read_text()
    config = json.loads(text)
    for value in (text[:40], "[]", json.dumps({**config, "r": "many"}), json.dumps({**config, "r": 0})):
        (adapter / CONFIG).write_text(value)
        with pytest.raises(ModelError, match="cannot be read"):
            attach(model, adapter)
    (adapter / CONFIG).write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(ModelError, match="IA3 adapter, not LoRA"):
        attach(model, adapter)
    (adapter / CONFIG).write_text(text)
    data = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        attach(model, adapter)
    save_file({**load_strange(data, tmp_path), "base_model.model.lm_head.weight": torch.ones(2)}, adapter / WEIGHTS)
    with pytest.raises(ModelError, match="tensors other than LoRA's"):
        attach(model, adapter)


def load_strange(data: bytes, folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "whole.safetensors"
    path.write_bytes(data)
    return dict(load_file(path))


def test_a_refused_adapter_leaves_the_model_as_it_was(model_folder: Folders, tmp_path: Path) -> None:
    adapter, _ = made_by_peft(model_folder("llama"), tmp_path / "peft")
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    tensors = load_file(broken / WEIGHTS)
    last = sorted(tensors)[-1]
    save_file({**tensors, last: tensors[last][:-1].contiguous()}, broken / WEIGHTS)
    model = load(model_folder("llama"))
    with pytest.raises(ModelError):
        attach(model, broken)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_wrapped_layers_are_the_linear_ones(model_folder: Folders) -> None:
    for kind, type_ in (("llama", nn.Linear), ("gpt2", Conv1D)):
        model = load(model_folder(kind))
        assert all(isinstance(model.get_submodule(name), type_) for name in target_names(model, "all-linear"))
