"""Rounds a model's linear layers to NF4 layer by layer, by what rows put through them (`engine/gptq.py` rounds one).

Each layer sees what the layers before it, rounded already, make of the rows, so that it makes up for their errors too (Frantar
et al. 2022, arXiv 2210.17323 §4).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tutelage.encode.types import Encoded
from tutelage.engine.four_bits import Quantisation, Scratch
from tutelage.engine.gptq import missing, rounded
from tutelage.engine.linear import base_linear, is_linear
from tutelage.engine.lora_linear import LoraLinear
from tutelage.engine.nf4 import Coded, Nf4Linear, packed_codes, plain_values
from tutelage.errors import ModelError, RecipeError
from tutelage.methods.targets import linear_names
from tutelage.runs import whole_file

WHERE = "method.calibrate"
MADE_FOR = "made_for"
SAME = 1e-3  # of the largest value: how far the layers one by one may be from the model's own pass


@dataclass
class Passed:
    """A row on its way through the layers: its hidden states [1, T, H], and what else each layer is given."""

    hidden: Tensor
    extra: list[tuple[tuple[Any, ...], dict[str, Any]]]


@torch.inference_mode()
def calibrate(
    model: Any, rows: Sequence[Encoded], how: Quantisation, adapted: Collection[str] = (), rank: int = 0,
    done: Callable[[int, int], None] = lambda layers, of: None,
) -> dict[str, Tensor]:  # fmt: skip
    """`name.codes` and `name.scales` of every linear layer but the head, as `read_block` reads them from a file.

    Of the layers `adapted` also `name.a` and `name.b`: the product BA of this rank that stands in for what rounding took from
    their outputs. Later layers see it done. The model is used up: its layers are the rounded ones afterwards. `done` hears after
    each layer how many are ready.
    """
    layers, scratch = layers_of(model), Scratch()
    _check_widths(model, how.block_size)
    passed = [_entering(model, layers, torch.from_numpy(row.ids.astype("int64"))[None]) for row in rows]
    found: dict[str, Tensor] = {}
    for number, (name, layer) in enumerate(layers.items()):
        moments = _moments(layer, number, passed)
        for inner, sums in moments.items():
            module = layer.get_submodule(inner)
            weight, whole = base_linear(module).dense().float(), f"{name}.{inner}"
            codes, scales = rounded(weight, sums, how.block_size)
            coded = packed_codes(codes.view(-1)), scales.view(-1)
            found |= {f"{whole}.codes": coded[0], f"{whole}.scales": coded[1]}
            block = Nf4Linear.of(module, how, scratch, (coded[0], coded[1].float()))
            made: nn.Module = block
            if whole in adapted:
                made = adapter = LoraLinear(block, rank, 1.0)
                adapter.a.data, adapter.b.data = missing(weight - plain_values(block), sums, rank)
                found |= {f"{whole}.a": adapter.a.data, f"{whole}.b": adapter.b.data}
            layer.set_submodule(inner, made)
        for row in passed:
            row.hidden = _through(layer, number, row)
        done(number + 1, len(layers))
    return found


def layers_of(model: Any) -> dict[str, nn.Module]:
    """The layers that follow one another and hold every linear layer but the head, by name."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    names = linear_names(model)
    for each in lists:
        if names and all(name.startswith(f"{each}.") for name in names):
            return {f"{each}.{i}": layer for i, layer in enumerate(model.get_submodule(each))}
    raise RecipeError(
        "this model cannot be calibrated", where=WHERE, fix="leave `calibrate` out",
        why="not all of its linear layers are in layers that follow one another",
    )  # fmt: skip


def write_blocks(tensors: Mapping[str, Tensor], path: Path, made_for: str = "") -> None:
    """All or nothing. `made_for` names what they were made from."""
    with whole_file(path) as temporary:
        try:
            save_file(dict(tensors), str(temporary), metadata={MADE_FOR: made_for})
        except SafetensorError as error:  # its kind of OSError
            raise OSError(str(error)) from error


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The open file, for `read_block`."""
    try:
        with safe_open(str(path), "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ModelError("the rounded weights cannot be read", where=str(path), why=str(error)) from error


def made_for(path: Path) -> str:
    """What the blocks in `path` were made from; empty where the file does not say."""
    with reading(path) as file:
        return str((file.metadata() or {}).get(MADE_FOR, ""))


def read_block(file: Any, name: str) -> Coded:
    """What the linear layer `name` was rounded to."""
    return file.get_tensor(f"{name}.codes"), file.get_tensor(f"{name}.scales").float()


def read_start(file: Any, name: str) -> tuple[Tensor, Tensor]:
    """A and B that stand in for what rounding took from the linear layer `name`."""
    return file.get_tensor(f"{name}.a"), file.get_tensor(f"{name}.b")


def _check_widths(model: Any, block: int) -> None:
    for name in linear_names(model):
        width = base_linear(model.get_submodule(name)).in_features
        if width % block:
            raise RecipeError(
                "this model cannot be calibrated with such blocks", where="method.block_size", fix="block_size: 16",
                why=f"`{name}` has rows of {width} weights, which is no whole number of blocks of {block}",
            )  # fmt: skip


def _entering(model: Any, layers: Mapping[str, nn.Module], ids: Tensor) -> Passed:
    """The row in front of the first layer. The layers one by one must give what the model's own pass over them gives."""
    seen: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []
    ended: list[Tensor] = []

    def entering(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = given[0] if given else named["hidden_states"]
        seen.append((hidden, given[1:], {key: value for key, value in named.items() if key != "hidden_states"}))

    handles = [layer.register_forward_pre_hook(entering, with_kwargs=True) for layer in layers.values()]
    last = list(layers.values())[-1]
    handles.append(last.register_forward_hook(lambda module, given, out: ended.append(_hidden(out))))
    try:
        model.base_model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    passed = Passed(seen[0][0], [(given, named) for _, given, named in seen])
    alone = Passed(passed.hidden, passed.extra)
    if len(seen) == len(layers):
        for number, layer in enumerate(layers.values()):
            alone.hidden = _through(layer, number, alone)
    difference = (alone.hidden - ended[0]).abs().max()
    if len(seen) != len(layers) or difference > SAME * ended[0].abs().max():
        raise RecipeError(
            "this model cannot be calibrated", where=WHERE, fix="leave `calibrate` out",
            why="its layers one by one compute something else than the model",
        )  # fmt: skip
    return passed


def _moments(layer: nn.Module, number: int, passed: Sequence[Passed]) -> dict[str, Tensor]:
    """Sum of x xᵀ over all rows and tokens, of the inputs of each linear layer in this layer, by its name there."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, module in layer.named_modules():
        if is_linear(module):

            def note(module: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
                x = given[0].reshape(-1, given[0].shape[-1]).float()
                found[name] = found[name].addmm_(x.t(), x) if name in found else x.t() @ x

            handles.append(module.register_forward_pre_hook(note))
    try:
        for row in passed:
            _through(layer, number, row)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _through(layer: nn.Module, number: int, row: Passed) -> Tensor:
    given, named = row.extra[number]
    return _hidden(layer(row.hidden, *given, **named))


def _hidden(out: Any) -> Tensor:
    hidden: Tensor = out[0] if isinstance(out, tuple) else out
    return hidden
