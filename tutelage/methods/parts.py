"""A model's parameters by what they are, in every architecture alike: attention and feed-forward matrices, and norms, by layer.

A part is a whole matrix with its bias, or a norm with its bias. Which it is comes from the modules alone: a layer is an entry of
an outermost `ModuleList`, attention is a part of a layer whose name says so, a norm is a module that holds no matrix. What is in
no layer (embeddings, the output head, a task's own head) is no part, but for the norms there, such as the last one.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from tutelage.methods.fresh import fresh_modules, is_inside

ATTENTION, FEED_FORWARD, NORM = "attention", "feed-forward", "norm"
MARKS = ("attn", "attention")  # self_attn, encoder_attn, attn, attention, SelfAttention, EncDecAttention, ...


@dataclass(frozen=True)
class Part:
    """Names of one matrix or norm and of the bias that belongs to it. Parts of a `group` are alike, and chosen among."""

    category: str
    group: str
    names: tuple[str, ...]


def parts_of(model: Any) -> list[Part]:
    """The parts of `model`, in its own order; every other parameter is an embedding, or belongs to a head."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    heads, head = fresh_modules(model), model.get_output_embeddings()
    of_head = {id(p) for p in head.parameters()} if head is not None else set()
    owners: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():  # yields a tied parameter once
        if id(parameter) not in of_head and not is_inside(name, heads):
            owner, _, own = name.rpartition(".")
            owners.setdefault(owner, {})[own] = parameter
    found = []
    for owner, held in owners.items():
        if not isinstance(model.get_submodule(owner), nn.Embedding):
            found += _parts(owner, held, _layer(owner, lists))
    return found


def _parts(owner: str, held: dict[str, nn.Parameter], layer: str | None) -> list[Part]:
    """The parts that the module `owner` holds itself."""
    matrices = [own for own, p in held.items() if p.dim() > 1]
    if not matrices:
        outside = layer is None
        if outside and "weight" not in held:
            return []
        return [Part(NORM, layer or "", tuple(f"{owner}.{own}" for own in held))]
    if layer is None:
        return []
    marked = _attention(owner, layer)
    category, group = (ATTENTION, marked) if marked else (FEED_FORWARD, layer)
    with_matrix = {own: matrices[0] for own in held if own not in matrices}  # biases
    for own in with_matrix:
        with_matrix[own] = next((m for m in matrices if own.startswith(m.removesuffix("weight"))), matrices[0])
    return [
        Part(category, group, (f"{owner}.{m}", *(f"{owner}.{own}" for own, to in with_matrix.items() if to == m)))
        for m in matrices
    ]


def _layer(owner: str, lists: list[str]) -> str | None:
    """The outermost list entry that `owner` is inside of: lists come with the outer ones first."""
    for each in lists:
        if owner.startswith(f"{each}."):
            return f"{each}.{owner[len(each) + 1 :].split('.')[0]}"
    return None


def _attention(owner: str, layer: str) -> str | None:
    """The part of the layer that is an attention and holds `owner`, if there is one."""
    inner = owner[len(layer) + 1 :].split(".")
    for depth, component in enumerate(inner):
        if any(mark in component.lower() for mark in MARKS):
            return ".".join((layer, *inner[: depth + 1]))
    return None
