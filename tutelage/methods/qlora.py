"""QLoRA: LoRA over a frozen base in 4 bits (Dettmers et al. 2023, arXiv 2305.14314).

The base is quantised while it is loaded. The adapters are `lora`'s, as are their files; beside them stands
quantisation.json, from which everything that opens the adapter later quantises the same base in the same way.
"""

import gc
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tutelage.encode.types import Encoded
from tutelage.engine.four_bits import FourBitLinear, Quantisation, Scratch
from tutelage.engine.int4 import Int4Linear
from tutelage.engine.linear import BaseLinear, base_linear
from tutelage.engine.lora_linear import LoraLinear
from tutelage.engine.nf4 import Coded, Nf4Linear, functional
from tutelage.errors import ModelError, RecipeError
from tutelage.methods.calibrate import calibrate, read_block, read_start, reading, write_blocks
from tutelage.methods.lora import Lora, lora_layers
from tutelage.methods.targets import linear_names, target_names
from tutelage.methods.types import METHODS, Trainable
from tutelage.models.load import stored_dtype
from tutelage.models.safety import read_object
from tutelage.recipe import QloraSpec
from tutelage.runs import write_json

QUANTISATION = "quantisation.json"
SAID = 5  # times that calibrating a model says how far it is
BLOCKS = "nf4.safetensors"  # a calibrated base: no other rows would give it again


class Qlora:
    """Quantises what is not quantised yet, and trains LoRA on it."""

    def prepare(self, model: Any, spec: QloraSpec, *, seed: int) -> Trainable:
        """As `lora`; every linear layer but the head is quantised, also those without an adapter."""
        quantise(model, _how(spec))
        trainable = Lora().prepare(model, spec, seed=seed)
        if spec.init == "qera":
            start(model)
        values = sum(layer.in_features * layer.out_features for _, layer in quantised(model))
        return replace(trainable, total=trainable.total + values)

    def save(self, model: Any, spec: QloraSpec, folder: Path, *, base: str) -> None:
        """A PEFT adapter folder, and how its base was quantised."""
        Lora().save(model, spec, folder, base=base)
        how: dict[str, Any] = {
            "quant_type": spec.quant_type,
            "block_size": spec.block_size,
            "double": spec.double_quant,
        }
        blocks = _blocks(model)
        if blocks is not None:
            shutil.copyfile(blocks, folder / BLOCKS)
            how["blocks"] = BLOCKS
        if spec.quant_type == "nf4":
            how["bitsandbytes"] = version("bitsandbytes")
        write_json(folder / QUANTISATION, how)


METHODS.add("qlora")(Qlora())


def start(model: Any) -> None:
    """Let the adapters begin with what rounding took, where the base was calibrated (without values there is no file)."""
    blocks = _blocks(model)
    if blocks is None:
        return
    with reading(blocks) as file:
        for name, layer in lora_layers(model):
            a, b = read_start(file, name)
            layer.a.data.copy_(a)
            layer.b.data.copy_(b / layer.scale)


def calibrated_bytes(model: Any, spec: QloraSpec) -> int:
    """What the file of a calibrated base takes: codes and bf16 scales, and the adapters' start."""
    if not spec.calibrate:
        return 0
    values = sum(layer.in_features * layer.out_features for _, layer in quantised(model))
    start = sum(layer.a.nbytes + layer.b.nbytes for _, layer in lora_layers(model)) if spec.init == "qera" else 0
    return values // 2 + values // spec.block_size * 2 + start


def _blocks(model: Any) -> Path | None:
    """The file of a calibrated base."""
    return next(layer.how.blocks for _, layer in quantised(model))


def quantisation_of(spec: object, blocks: Path | None = None) -> Quantisation | None:
    """How a recipe's method stores the base, `blocks` being where it lies calibrated; None: as it is."""
    return _how(spec, blocks) if isinstance(spec, QloraSpec) else None


def _how(spec: QloraSpec, blocks: Path | None = None) -> Quantisation:
    return Quantisation(spec.block_size, spec.double_quant, blocks, spec.quant_type)


def read_quantisation(folder: Path) -> Quantisation | None:
    """How the base of the adapter in `folder` was stored when it was trained; None: as it is."""
    path = folder / QUANTISATION
    if not path.is_file():
        return None
    values = read_object(path)
    try:
        if values["quant_type"] not in ("nf4", "int4"):
            raise ValueError(f"quant_type is {values['quant_type']!r}")
        blocks = folder / BLOCKS if "blocks" in values else None
        if blocks is not None and not blocks.is_file():
            raise ValueError(f"{BLOCKS} is missing beside it")
        return Quantisation(int(values["block_size"]), bool(values["double"]), blocks, values["quant_type"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError("this does not say how the base is quantised", where=str(path), why=str(error)) from error


def check_package(how: Quantisation) -> None:
    """Say what to install where it is missing, before anything is loaded."""
    if how.kind == "nf4":
        functional()


def load_base(load: Callable[[torch.dtype], Any], path: Path, dtype: torch.dtype, how: Quantisation | None) -> Any:
    """What `load` makes of the model folder `path` in `dtype`; with `how`, quantised on the way.

    Loaded in the dtype of the files, weights are pages of the mapped files, which the system may drop again, until something
    else is made of them: so there is never more in memory than what is quantised already and one layer.
    """
    if how is None:
        return load(dtype)
    check_package(how)
    model = load(stored_dtype(path))
    quantise(model, how)
    return model.to(dtype)


def calibrate_base(
    load: Callable[[torch.dtype], Any], path: Path, spec: QloraSpec, rows: Sequence[Encoded], to: Path,
    say: Callable[[str], None] = lambda text: None, *, made_for: str = "",
) -> None:  # fmt: skip
    """Write the linear layers of what `load` makes of `path`, rounded by what `rows` do to them, into the file `to`."""

    def done(layers: int, of: int) -> None:
        if layers * SAID // of > (layers - 1) * SAID // of:
            say(f"calibrating: {layers} of {of} layers")

    functional()
    to.parent.mkdir(parents=True, exist_ok=True)
    model = load(stored_dtype(path))
    quantisable(model)
    adapted = target_names(model, spec.target_modules, spec.layer_numbers()) if spec.init == "qera" else []
    write_blocks(calibrate(model, rows, _how(spec), adapted, spec.rank, done), to, made_for)


def quantise(model: Any, how: Quantisation) -> None:
    """Put 4-bit blocks in the place of every linear layer's weight but the head's, and let go of the weight."""
    names, scratch = quantisable(model), Scratch()
    with reading(how.blocks) if how.blocks else nullcontext() as file:
        for name in names:
            layer = model.get_submodule(name)
            if not isinstance(layer, FourBitLinear):
                coded = read_block(file, name) if file else None
                model.set_submodule(name, four_bit_linear(layer, how, scratch, coded))
    gc.collect()


def four_bit_linear(
    layer: torch.nn.Module, how: Quantisation, scratch: Scratch, coded: Coded | None = None
) -> FourBitLinear:
    """The quantised form of a linear layer, from its weight or, for NF4, from what that is `coded` as already."""
    if how.kind == "int4":
        return Int4Linear.of(layer, how, scratch)
    return Nf4Linear.of(layer, how, scratch, coded)


def quantisable(model: Any) -> list[str]:
    """Names of the layers that are quantised; RecipeError where most of the model would stay as it is."""
    names = linear_names(model)
    experts = next((name for name, p in model.named_parameters() if p.dim() == 3 and "expert" in name), None)
    if experts or not names:
        what = f"its experts, such as `{experts}`, are no linear layers" if experts else "it has no linear layers"
        raise RecipeError(
            "this model cannot be quantised for `qlora`",
            where="method.kind",
            why=what,
            fix="method: lora, or another model",
        )
    return names


def quantised(model: Any) -> list[tuple[str, FourBitLinear]]:
    """(name, layer) of every quantised layer."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, FourBitLinear)]


def dequantise(model: Any) -> None:
    """Put plain layers in the place of all quantised ones, one after the other; adapters stay around theirs."""
    for name, layer in quantised(model):
        plain, parent = layer.module(), model.get_submodule(name.rpartition(".")[0])
        model.set_submodule(name, base_linear(plain) if isinstance(parent, LoraLinear | BaseLinear) else plain)
