"""Which models a server has: each name with its engine, its adapter and its chat template."""

import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from tutelage.encode.template import Template
from tutelage.engine.four_bits import Quantisation
from tutelage.errors import Problem, UsageError
from tutelage.generate.adapter_weights import FUSED, AdapterWeights, fuse
from tutelage.generate.llama_runner import is_llama_shaped, sizes_of, take_apart
from tutelage.generate.plain_runner import PlainRunner
from tutelage.generate.runner import Runner
from tutelage.methods import lora
from tutelage.methods.adapter_file import PREFIX, read_adapter
from tutelage.methods.opening import Located, load_located, locate
from tutelage.models.load import load_tokenizer
from tutelage.runs import MANIFEST, read_json
from tutelage.serve.engine import Engine
from tutelage.serve.limits import Limits
from tutelage.serve.streams import Streams

Say = Callable[[str], None]


@dataclass(frozen=True)
class Served:
    """One name that clients may ask for."""

    name: str
    engine: Streams
    adapter: str | None
    template: Template
    created: int
    base: str | None = None  # the served name of the untouched model

    task = "chat"
    about = "writes text"
    routes = ("/v1/chat/completions", "/v1/completions")
    labels: ClassVar[list[str]] = []

    @property
    def context(self) -> int | None:
        """The most tokens of prompt and answer together."""
        return self.engine.context


def named(arguments: Sequence[str]) -> dict[str, str]:
    """`NAME=PLACE` or `PLACE`, whose last part is its name; a name that stands twice is an error."""
    found: dict[str, str] = {}
    problems = []
    for argument in arguments:
        name, equals, place = argument.partition("=")
        if not equals:
            name, place = Path(argument).name or argument, argument
        if not name or name in found:
            problems.append(Problem(f"two models are called `{name}`", argument, fix=f"give it a name: other={place}"))
        found[name] = place
    if problems or not found:
        raise UsageError(problems or "no model was named", fix="tutelage serve runs/quickstart")
    return found


def open_served(
    places: Mapping[str, Located],
    *,
    dtype: torch.dtype,
    limits: Limits,
    base: bool,
    say: Say,
    threads: int | None = None,
) -> dict[str, Served]:
    """Load models that write. Adapters over one base share its weights; the base is served too where it costs nothing.

    With `base`, the untouched model of a fully tuned run is loaded beside it.
    """
    served: dict[str, Served] = {}
    groups: dict[tuple[Path, Quantisation | None], dict[str, Located]] = {}
    for name, place in places.items():
        groups.setdefault((place.model.resolve(), place.quantisation), {})[name] = place
    for members in groups.values():
        served |= _open_group(members, dtype, limits, say, threads)
    if base:
        for name, place in places.items():
            if place.adapter is None and place.run is not None and served[name].base is None:
                origin = locate(str(place.run), base=True, say=say)
                title = free_name(base_name(place), served)
                served |= _open_group({title: origin}, dtype, limits, say, threads)
                served[name] = _with_base(served[name], title)
    return served


def _with_base(model: Served, base: str) -> Served:
    return Served(model.name, model.engine, model.adapter, model.template, model.created, base)


def _open_group(
    members: dict[str, Located], dtype: torch.dtype, limits: Limits, say: Say, threads: int | None
) -> dict[str, Served]:
    """Models with the same base weights: one engine, if its runner can hold their adapters; else one each."""
    first = next(iter(members.values()))
    model = load_located(_bare(first), dtype).model
    adapters = _fused(members, model) if is_llama_shaped(model) else {}
    runner = take_apart(model, adapters)
    if runner is None or len(adapters) < sum(place.adapter is not None for place in members.values()):
        say(
            f"note: {first.model.name} runs through transformers, one stream after the other: "
            "its shape, or the kind of an adapter over it, is not known here"
        )
        return {name: _plain(name, place, dtype, limits, threads) for name, place in members.items()}
    engine = Engine(runner, limits, threads)
    now = int(time.time())
    base = next((name for name, place in members.items() if place.adapter is None), None)
    if base is None:
        base = free_name(base_name(first), members)
        members = {**members, base: first.base}
    return {
        name: Served(
            name, engine, name if place.adapter else None, template_of(place), now, base if place.adapter else None
        )
        for name, place in members.items()
    }


def _bare(place: Located) -> Located:
    return replace(place, adapter=None)


def _fused(members: dict[str, Located], model: Any) -> dict[str, AdapterWeights]:
    found = {}
    known = {part for parts in FUSED.values() for part in parts}
    for name, place in members.items():
        if place.adapter is None:
            continue
        config, tensors = read_adapter(place.adapter)
        if not is_plain_addition(config):
            continue
        scale = lora.scaling(int(config["r"]), float(config["lora_alpha"]), bool(config.get("use_rslora")))
        names = {key.removeprefix(PREFIX).rpartition(".lora_")[0] for key in tensors}
        if all(layer.startswith("model.layers.") and layer.split(".", 3)[3] in known for layer in names):
            pairs = {
                layer.removeprefix("model."): (
                    tensors[f"{PREFIX}{layer}.lora_A.weight"], tensors[f"{PREFIX}{layer}.lora_B.weight"],
                )
                for layer in names
            }  # fmt: skip
            found[name] = fuse(pairs, scale, sizes_of(model), len(model.model.layers), model.dtype)
    return found


def is_plain_addition(config: Mapping[str, Any]) -> bool:
    """Whether an adapter with this configuration adds a product to its base and changes nothing else."""
    return not config.get("use_dora") and config.get("init_lora_weights") != "pissa"


def _plain(name: str, place: Located, dtype: torch.dtype, limits: Limits, threads: int | None) -> Served:
    runner: Runner = PlainRunner(load_located(place, dtype).model)
    return Served(name, Engine(runner, limits, threads), None, template_of(place), int(time.time()))


def template_of(place: Located) -> Template:
    """Its chat template, with the ids that end an answer."""
    folder = place.tokenizer if (place.tokenizer / "tokenizer.json").is_file() else place.model
    path = place.model / "generation_config.json"
    eos: Any = read_json(path).get("eos_token_id") if path.is_file() else None
    return Template.of(load_tokenizer(folder), eos_ids=eos)


def base_name(place: Located) -> str:
    """What the untouched model below a tuned one is called."""
    if place.run is not None:
        return Path(str(read_json(place.run / MANIFEST)["model"]["name"])).name
    return place.model.name


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, or one like it that is not taken."""
    while name in taken:
        name += "-base"
    return name
