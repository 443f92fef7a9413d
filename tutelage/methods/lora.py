"""LoRA in PEFT's file format, both ways (Hu et al. 2021, arXiv 2106.09685; rsLoRA: Kalajdzievski 2023, arXiv 2312.03732)."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tutelage.engine.linear import base_linear, is_linear
from tutelage.engine.lora_linear import LoraLinear
from tutelage.errors import ModelError, Problem, RecipeError
from tutelage.methods.adapter_file import CONFIG, PREFIX, WEIGHTS, read_adapter
from tutelage.methods.fresh import fresh_modules, is_inside, task_type
from tutelage.methods.types import METHODS, Trainable, trainable_of
from tutelage.recipe import LoraSpec
from tutelage.registry import suggestion


class Lora:
    """Trains rank-r additions to frozen linear layers and stores a PEFT adapter folder."""

    def prepare(self, model: Any, spec: LoraSpec, *, seed: int) -> Trainable:
        """Wrap the target layers; A is drawn as PEFT draws it (Kaiming uniform, a = √5), B is zero."""
        if spec.adapter is not None:
            attach(model, Path(spec.adapter), expected=spec, trains=True)
            train_heads(model)
            return trainable_of(model)
        model.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        scale = scaling(spec.rank, spec.alpha, spec.rslora)
        for name in target_names(model, spec.target_modules):
            layer = wrap(model, name, spec.rank, scale, spec.dropout)
            bound = 1 / math.sqrt(layer.base.in_features)  # what kaiming_uniform_(a=√5) comes to
            drawn = torch.rand(layer.a.shape, generator=generator) * (2 * bound) - bound
            layer.a.data.copy_(drawn)
        train_heads(model)
        return trainable_of(model)

    def save(self, model: Any, spec: LoraSpec, folder: Path, *, base: str) -> None:
        """adapter_config.json and adapter_model.safetensors, as PEFT writes them."""
        layers = dict(lora_layers(model))
        tensors: dict[str, Tensor] = {}
        for name, layer in layers.items():
            tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.a.detach().cpu().contiguous()
            tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.b.detach().cpu().contiguous()
        heads = fresh_modules(model)
        tensors |= {
            f"{PREFIX}{name}": p.detach().cpu().contiguous()
            for name, p in model.named_parameters()
            if is_inside(name, heads)
        }
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        first = next(iter(layers.values()))
        config: dict[str, Any] = {
            "peft_type": "LORA", "task_type": task_type(model), "base_model_name_or_path": base, "r": first.a.shape[0],
            "lora_alpha": spec.alpha, "lora_dropout": spec.dropout, "use_rslora": spec.rslora, "bias": "none",
            "fan_in_fan_out": any(layer.base.fan_in_fan_out for layer in layers.values()), "inference_mode": True,
            "init_lora_weights": True, "target_modules": sorted(_suffixes(model, list(layers))),
            "modules_to_save": list(heads) or None,
            "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "revision": None,
        }  # fmt: skip
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


METHODS.add("lora")(Lora())


def train_heads(model: Any) -> None:
    """Let a task's own head train whole."""
    for name in fresh_modules(model):
        model.get_submodule(name).requires_grad_(True)


def scaling(rank: int, alpha: float, rslora: bool) -> float:
    """alpha / r, or alpha / √r with rank stabilisation."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def linear_names(model: Any) -> list[str]:
    """Names of all linear layers but the output head and a task's own."""
    head, heads = model.get_output_embeddings(), fresh_modules(model)
    return [
        name
        for name, module in model.named_modules()
        if is_linear(module) and module is not head and not is_inside(name, heads)
    ]


def target_names(model: Any, wanted: str | list[str]) -> list[str]:
    """Names of the layers to wrap: "all-linear" is every Linear and Conv1D but the output head; else names or suffixes."""
    linear = linear_names(model)
    experts = [name for name, p in model.named_parameters() if p.dim() == 3 and "expert" in name]
    if experts and wanted == "all-linear":
        raise RecipeError(
            "`method.target_modules: all-linear` would miss this model's experts", where="method.target_modules",
            why=f"mixture-of-experts weights such as `{experts[0]}` are not linear layers",
            fix="name the layers to train, e.g. target_modules: [q_proj, k_proj, v_proj, o_proj]",
        )  # fmt: skip
    if wanted == "all-linear":
        return linear
    chosen = [name for name in linear if any(name == w or name.endswith(f".{w}") for w in wanted)]
    known = sorted({name.rpartition(".")[2] for name in linear})
    problems = [
        Problem(f"this model has no linear layer called `{w}`", "method.target_modules", fix=suggestion(w, known))
        for w in wanted
        if not any(name == w or name.endswith(f".{w}") for name in linear)
    ]
    if problems:
        raise RecipeError(problems)
    return chosen


def wrap(model: Any, name: str, rank: int, scale: float, dropout: float) -> LoraLinear:
    """Put a LoraLinear in the place of the layer called `name`."""
    parent = model.get_submodule(name.rpartition(".")[0])
    layer = LoraLinear(base_linear(getattr(parent, name.rpartition(".")[2])), rank, scale, dropout)
    setattr(parent, name.rpartition(".")[2], layer)
    return layer


def lora_layers(model: Any) -> Iterator[tuple[str, LoraLinear]]:
    """(original layer name, layer) of every wrapped layer."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def attach(model: Any, adapter: Path, *, expected: LoraSpec | None = None, trains: bool = False) -> None:
    """Wrap `model`'s layers with the PEFT adapter in the folder `adapter`; nothing else trains."""
    config, tensors = read_adapter(adapter)
    rank, alpha, rslora = int(config["r"]), float(config["lora_alpha"]), bool(config.get("use_rslora"))
    if expected is not None and (rank, alpha, rslora) != (expected.rank, expected.alpha, expected.rslora):
        says_so = ", rslora: true" if rslora else ""
        raise RecipeError(
            f"the adapter has rank {rank}, alpha {alpha:g}, rslora {rslora}", where="method.adapter",
            why="the recipe says otherwise", fix=f"method: {{kind: lora, rank: {rank}, alpha: {alpha:g}{says_so}, ...}}",
        )  # fmt: skip
    heads = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items() if ".lora_" not in key}
    names = sorted({key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in tensors if ".lora_" in key})
    _load_heads(model, adapter, heads)
    _check_fit(model, adapter, config, names, tensors, rank)
    if expected is not None and isinstance(expected.target_modules, list):
        wanted = set(target_names(model, expected.target_modules))
        if wanted != set(names):
            differing = sorted(wanted ^ set(names))
            raise RecipeError(
                f"the adapter trains other layers than `target_modules` names, e.g. `{differing[0]}`",
                where="method.adapter", why="an adapter keeps its own layers", fix="leave `method.target_modules` out",
            )  # fmt: skip
    model.requires_grad_(False)
    dropout = expected.dropout if expected else 0.0
    for name in names:
        layer = wrap(model, name, rank, scaling(rank, alpha, rslora), dropout)
        for letter, parameter in (("A", layer.a), ("B", layer.b)):
            parameter.data.copy_(tensors[f"{PREFIX}{name}.lora_{letter}.weight"].float())
            parameter.requires_grad_(trains)


def _load_heads(model: Any, adapter: Path, heads: dict[str, Tensor]) -> None:
    """Take over the adapter's heads; each must have its place and shape in `model`."""
    own = {name: p for name, p in model.named_parameters() if is_inside(name, fresh_modules(model))}
    for name, tensor in heads.items():
        if name not in own or own[name].shape != tensor.shape:
            raise ModelError(
                f"the adapter has a head `{name}` that this model lacks, or of another shape", where=str(adapter / WEIGHTS),
                why="it was trained for another task", fix="use it for the task it was trained for",
            )  # fmt: skip
        own[name].data.copy_(tensor)


def _check_fit(
    model: Any, adapter: Path, config: dict[str, Any], names: list[str], tensors: dict[str, Tensor], rank: int
) -> None:
    """Fail before anything is wrapped, unless every tensor of the adapter has its layer and shape in `model`."""
    linear = {name: module for name, module in model.named_modules() if is_linear(module)}
    for name in names:
        if name not in linear:
            raise ModelError(
                f"the adapter has weights for `{name}`, which this model lacks", where=str(adapter / WEIGHTS),
                why="it was trained on another model", fix=f"use its own base model: {config.get('base_model_name_or_path')}",
            )  # fmt: skip
        base = base_linear(linear[name])
        for letter, shape in (("A", (rank, base.in_features)), ("B", (base.out_features, rank))):
            tensor = tensors.get(f"{PREFIX}{name}.lora_{letter}.weight")
            if tensor is None or tensor.shape != shape:
                raise ModelError(
                    f"lora_{letter} of `{name}` is missing or has another shape", where=str(adapter / WEIGHTS)
                )


def _suffixes(model: Any, names: list[str]) -> set[str]:
    """Last name parts that select exactly `names` among all linear layers, or the full names where they do not."""
    last = {name.rpartition(".")[2] for name in names}
    others = [n for n, m in model.named_modules() if is_linear(m) and not n.endswith((".base", ".base.inner"))]
    return last if not any(n.rpartition(".")[2] in last for n in others) else set(names)


def merge(model: Any) -> None:
    """Add every adapter to its weight and put the original layers back."""
    for name, layer in list(lora_layers(model)):
        layer.base.add_(layer.delta().detach())
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], layer.base.module())
