"""LoRA in PEFT's file format, both ways (Hu et al. 2021, arXiv 2106.09685; rsLoRA: Kalajdzievski 2023, arXiv 2312.03732).

With DoRA a layer has magnitudes as well; with PiSSA's start it is saved as what it adds to the untouched weights, of rank 2r.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tutelage.engine.dora_linear import DoraLinear
from tutelage.engine.linear import BaseLinear, base_linear, is_linear
from tutelage.engine.lora_linear import LoraLinear
from tutelage.engine.residual_linear import ResidualLinear
from tutelage.errors import ModelError, RecipeError
from tutelage.methods.adapter_file import CONFIG, PREFIX, WEIGHTS, read_adapter
from tutelage.methods.fresh import fresh_modules, is_inside, task_type
from tutelage.methods.pissa import iterations_of, less_principal
from tutelage.methods.targets import number_of, target_names
from tutelage.methods.types import METHODS, Trainable, trainable_of
from tutelage.methodspec import LoraSpec


class Lora:
    """Trains rank-r additions to frozen linear layers and stores a PEFT adapter folder."""

    def prepare(self, model: Any, spec: LoraSpec, *, seed: int) -> Trainable:
        """Wrap the target layers; A is drawn as PEFT draws it (Kaiming uniform, a = √5), B is zero; or both are PiSSA's."""
        if spec.adapter is not None:
            attach(model, Path(spec.adapter), expected=spec, trains=True)
        else:
            model.requires_grad_(False)
            generator = torch.Generator().manual_seed(seed)
            scale = scaling(spec.rank, spec.alpha, spec.rslora)
            for name in target_names(model, spec.target_modules, spec.layer_numbers()):
                base = base_linear(model.get_submodule(name))
                if spec.init.startswith("pissa"):
                    base = less_principal(base, spec.rank, scale, iterations_of(spec.init), seed)
                layer = wrap(model, name, spec.rank, scale, spec.dropout, dora=spec.dora, base=base)
                begin(layer, generator)
        train_heads(model)
        return trainable_of(model, faster=_faster(model, spec))

    def save(self, model: Any, spec: LoraSpec, folder: Path, *, base: str) -> None:
        """adapter_config.json and adapter_model.safetensors, as PEFT writes them."""
        layers, heads = dict(lora_layers(model)), fresh_modules(model)
        saved = {f"{PREFIX}{name}.{key}": t for name, layer in layers.items() for key, t in tensors_of(layer).items()}
        saved |= {f"{PREFIX}{name}": p.detach() for name, p in model.named_parameters() if is_inside(name, heads)}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in saved.items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        first = next(iter(layers.values()))
        rank = next(t.shape[0] for name, t in tensors.items() if name.endswith(".lora_A.weight"))
        targets, numbers = _selection(model, list(layers))
        config: dict[str, Any] = {
            "peft_type": "LORA", "task_type": task_type(model), "base_model_name_or_path": base, "r": rank,
            "lora_alpha": first.scale * (math.sqrt(rank) if spec.rslora else rank) if rank != spec.rank else spec.alpha,
            "lora_dropout": spec.dropout, "use_rslora": spec.rslora, "bias": "none",
            "fan_in_fan_out": any(layer.base.fan_in_fan_out for layer in layers.values()), "inference_mode": True,
            "init_lora_weights": True, "target_modules": sorted(targets), "layers_to_transform": numbers,
            "modules_to_save": list(heads) or None, "use_dora": isinstance(first, DoraLinear),
            "rank_pattern": {}, "alpha_pattern": {}, "revision": None,
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


def wrap(
    model: Any,
    name: str,
    rank: int,
    scale: float,
    dropout: float,
    *,
    dora: bool = False,
    base: BaseLinear | None = None,
) -> LoraLinear:
    """Put a LoraLinear in the place of the layer called `name`, over its weight or over `base`."""
    base = base or base_linear(model.get_submodule(name))
    layer = (DoraLinear if dora else LoraLinear)(base, rank, scale, dropout)
    model.set_submodule(name, layer)
    return layer


def begin(layer: LoraLinear, generator: torch.Generator) -> None:
    """Give a new layer its first weights: it computes what it did before."""
    if isinstance(layer.base, ResidualLinear):
        layer.a.data.copy_(layer.base.a)
        layer.b.data.copy_(layer.base.b)
    else:
        bound = 1 / math.sqrt(layer.base.in_features)  # what kaiming_uniform_(a=√5) comes to
        layer.a.data.copy_(torch.rand(layer.a.shape, generator=generator) * (2 * bound) - bound)
    if isinstance(layer, DoraLinear):
        layer.start()


def tensors_of(layer: LoraLinear) -> dict[str, Tensor]:
    """What PEFT stores of a layer, by its names; a PiSSA layer as what it adds to its untouched weight."""
    a, b = layer.a.detach(), layer.b.detach()
    if isinstance(layer.base, ResidualLinear):
        a, b = torch.cat((a, layer.base.a)), torch.cat((b, -layer.base.b), 1)
    magnitudes = {"lora_magnitude_vector": layer.m.detach()} if isinstance(layer, DoraLinear) else {}
    return {"lora_A.weight": a, "lora_B.weight": b, **magnitudes}


def _faster(model: Any, spec: LoraSpec) -> dict[str, float]:
    """LoRA+ (Hayou et al. 2024, arXiv 2402.12354 §4): the factor of each B's learning rate."""
    ratio = spec.loraplus_ratio
    return {} if ratio is None else {f"{name}.b": ratio for name, _ in lora_layers(model)}


def lora_layers(model: Any) -> Iterator[tuple[str, LoraLinear]]:
    """(original layer name, layer) of every wrapped layer."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def attach(model: Any, adapter: Path, *, expected: LoraSpec | None = None, trains: bool = False) -> None:
    """Wrap `model`'s layers with the PEFT adapter in the folder `adapter`; nothing else trains."""
    config, tensors = read_adapter(adapter)
    rank, alpha, rslora = int(config["r"]), float(config["lora_alpha"]), bool(config.get("use_rslora"))
    scale, dora = scaling(rank, alpha, rslora), bool(config.get("use_dora"))
    if expected is not None:
        _check_recipe(expected, rank, alpha, rslora, dora)
    heads = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items() if ".lora_" not in key}
    names = sorted({key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in tensors if ".lora_" in key})
    _load_heads(model, adapter, heads)
    _check_fit(model, adapter, config, names, tensors, rank)
    if expected is not None and (expected.target_modules != "all-linear" or expected.layers is not None):
        wanted = set(target_names(model, expected.target_modules, expected.layer_numbers()))
        if wanted != set(names):
            differing = sorted(wanted ^ set(names))
            raise RecipeError(
                f"the adapter trains other layers than `target_modules` names, e.g. `{differing[0]}`",
                where="method.adapter", why="an adapter keeps its own layers",
                fix="leave `method.target_modules` and `method.layers` out",
            )  # fmt: skip
    model.requires_grad_(False)
    dropout = expected.dropout if expected else 0.0
    for name in names:
        base = base_linear(model.get_submodule(name))
        if config.get("init_lora_weights") == "pissa":  # PEFT takes the same part out of the weights when it loads it
            base = less_principal(base, rank, scale, None, 0)
        layer = wrap(model, name, rank, scale, dropout, dora=dora, base=base)
        own = {"lora_A.weight": layer.a, "lora_B.weight": layer.b}
        if isinstance(layer, DoraLinear):
            own["lora_magnitude_vector"] = layer.m
        for key, parameter in own.items():
            parameter.data.copy_(tensors[f"{PREFIX}{name}.{key}"].float())
            parameter.requires_grad_(trains)


def _check_recipe(spec: LoraSpec, rank: int, alpha: float, rslora: bool, dora: bool) -> None:
    """Fail where an adapter to continue from is not what the recipe says."""
    same_alpha = math.isclose(alpha, spec.alpha, rel_tol=1e-5)
    if same_alpha and (rank, rslora, dora) == (spec.rank, spec.rslora, spec.dora):
        return
    says_so = (", rslora: true" if rslora else "") + (", dora: true" if dora else "")
    raise RecipeError(
        f"the adapter has rank {rank}, alpha {alpha:g}, rslora {rslora}, dora {dora}", where="method.adapter",
        why="the recipe says otherwise", fix=f"method: {{kind: lora, rank: {rank}, alpha: {alpha:.7g}{says_so}, ...}}",
    )  # fmt: skip


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
        shapes: dict[str, tuple[int, ...]] = {
            "lora_A.weight": (rank, base.in_features),
            "lora_B.weight": (base.out_features, rank),
        }
        if config.get("use_dora"):
            shapes["lora_magnitude_vector"] = (base.out_features,)
        for key, shape in shapes.items():
            tensor = tensors.get(f"{PREFIX}{name}.{key}")
            if tensor is None or tensor.shape != shape:
                what = key.removesuffix(".weight")
                raise ModelError(f"{what} of `{name}` is missing or has another shape", where=str(adapter / WEIGHTS))


def _selection(model: Any, names: list[str]) -> tuple[set[str], list[int] | None]:
    """PEFT's `target_modules` and `layers_to_transform` that select exactly `names`: last name parts of all layers, or of
    some numbered ones, or the full names."""
    last = {name.rpartition(".")[2] for name in names}
    linear = [n for n, m in model.named_modules() if is_linear(m) and not n.endswith((".base", ".base.inner"))]
    others = [name for name in linear if name.rpartition(".")[2] in last]
    if not others:
        return last, None
    numbers = {number_of(name) for name in names}
    if None in numbers or any(number_of(name) in numbers for name in others):
        return set(names), None
    return last, sorted(number for number in numbers if number is not None)


def merge(model: Any) -> None:
    """Add every adapter to its weight and put the original layers back."""
    for name, layer in list(lora_layers(model)):
        layer.base.add_(layer.delta().detach())
        model.set_submodule(name, layer.base.module())
