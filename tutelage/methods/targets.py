"""Which layers an adapter wraps: by kind, by name or pattern, and by the number of their layer."""

import re
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from tutelage.errors import Problem, RecipeError
from tutelage.methods.fresh import fresh_modules, is_inside
from tutelage.registry import suggestion

WHERE = "method.target_modules"
# The number of the layer that a module belongs to, where PEFT looks for it: behind at least two names.
NUMBER = re.compile(r".*?\.[^.]*\.(\d+)\.")
ATTENTION = re.compile(r"att(entio)?n", re.IGNORECASE)
FEED_FORWARD = {
    "mlp", "ffn", "feed_forward", "feedforward", "densereludense", "intermediate", "output", "fc1", "fc2",
}  # fmt: skip


def target_names(model: Any, wanted: str | list[str], layers: set[int] | None = None) -> list[str]:
    """Names of the layers to wrap. "all-linear" is every Linear and Conv1D but the output head, "attention" and "mlp" those
    of one kind; a list holds names, their ends, or patterns with `*`. `layers` keeps those of the layers so numbered."""
    head, heads = model.get_output_embeddings(), fresh_modules(model)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and not is_inside(name, heads)
    ]
    experts = [name for name, p in model.named_parameters() if p.dim() == 3 and "expert" in name]
    if experts and wanted in ("all-linear", "mlp"):
        raise RecipeError(
            f"`method.target_modules: {wanted}` would miss this model's experts", where=WHERE,
            why=f"mixture-of-experts weights such as `{experts[0]}` are not linear layers",
            fix="name the layers to train, e.g. target_modules: [q_proj, k_proj, v_proj, o_proj]",
        )  # fmt: skip
    chosen = _named(linear, wanted) if isinstance(wanted, list) else [name for name in linear if KINDS[wanted](name)]
    if not chosen:
        raise RecipeError(
            f"no linear layer of this model is known to be of its {wanted}", where=WHERE,
            fix=f"name the layers to train, e.g. target_modules: [{', '.join(_last(linear)[:3])}]",
        )  # fmt: skip
    return chosen if layers is None else _numbered(chosen, layers)


def is_attention(name: str) -> bool:
    """Whether a linear layer of this name computes queries, keys, values or the output of attention."""
    return any(ATTENTION.search(part) for part in name.split("."))


def is_feed_forward(name: str) -> bool:
    """Whether a linear layer of this name is one of a feed-forward block."""
    return not is_attention(name) and not FEED_FORWARD.isdisjoint(name.lower().split("."))


KINDS = {"all-linear": lambda name: True, "attention": is_attention, "mlp": is_feed_forward}


def number_of(name: str) -> int | None:
    """The number of the layer that the module `name` belongs to."""
    match = NUMBER.match(name)
    return int(match[1]) if match else None


def _named(linear: list[str], wanted: list[str]) -> list[str]:
    problems = [
        Problem(f"this model has no linear layer called `{w}`", WHERE, fix=suggestion(w, _last(linear)))
        for w in wanted
        if not any(_fits(name, w) for name in linear)
    ]
    if problems:
        raise RecipeError(problems)
    return [name for name in linear if any(_fits(name, w) for w in wanted)]


def _fits(name: str, wanted: str) -> bool:
    if "*" in wanted:
        return fnmatchcase(name, wanted) or fnmatchcase(name, f"*.{wanted}")
    return name == wanted or name.endswith(f".{wanted}")


def _last(names: list[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})


def _numbered(names: list[str], layers: set[int]) -> list[str]:
    known = sorted({number for name in names if (number := number_of(name)) is not None})
    absent = sorted(layers - set(known))
    if absent:
        has = f"it has {known[0]} to {known[-1]}" if known else "its layers have no numbers"
        raise RecipeError(
            f"this model has no layer {absent[0]} with such linear layers", where="method.layers", why=has,
            fix=f"layers: [{known[0]}-{known[-1]}]" if known else "leave `method.layers` out",
        )  # fmt: skip
    return [name for name in names if number_of(name) in layers]
