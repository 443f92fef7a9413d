"""Open what can be talked to: a run's tuned model, its untouched base, or any model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tutelage.encode.template import Template
from tutelage.engine.four_bits import Quantisation
from tutelage.engine.precision import choose_precision, device_name
from tutelage.errors import MissingInputError
from tutelage.methods import lora
from tutelage.methods.adapter_file import CONFIG, read_adapter
from tutelage.methods.qlora import dequantise, load_base, read_quantisation
from tutelage.models.fetch import fetch
from tutelage.models.load import load_model, load_tokenizer
from tutelage.models.ref import parse_ref
from tutelage.models.safety import check_folder
from tutelage.runs import MANIFEST, read_json, run_folder


@dataclass(frozen=True)
class Opened:
    """A model in eval mode with its tokenizer and chat template."""

    model: Any
    tokenizer: Any
    template: Template
    name: str


@dataclass(frozen=True)
class Located:
    """Where the parts of a model lie: the folder of its weights, its adapter if it has one, its tokenizer."""

    model: Path
    adapter: Path | None
    tokenizer: Path
    name: str
    run: Path | None = None  # the run folder that it came from
    quantisation: Quantisation | None = None  # of the weights that the adapter was trained on

    @property
    def base(self) -> "Located":
        """The model without its adapter, quantised as it was under it, with its own tokenizer."""
        return replace(self, adapter=None, tokenizer=self.model, name=f"{self.name} (base)")


def open_model(
    name: str, *, base: bool = False, precision: str = "auto", say: Callable[[str], None] = lambda text: None
) -> Opened:
    """The model of a run folder (with `base` the one it started from), of an adapter or model folder, or of a name.

    `precision` "auto" measures the machine, so that a busy one may choose otherwise the next time.
    """
    return open_located(locate(name, base=base, say=say), precision)


def open_located(located: Located, precision: str = "auto") -> Opened:
    """The located model, its adapter added to its weights, in `precision` (see `open_model`)."""
    chosen, _ = choose_precision(precision, device_name())
    return load_located(located, torch.bfloat16 if chosen == "bf16" else torch.float32)


def locate(name: str, *, base: bool = False, say: Callable[[str], None] = lambda text: None) -> Located:
    """Where the model called `name` lies (see `open_model`); fetches it if it is not here yet."""
    folder = run_folder(name)
    if folder is not None:
        return _locate_run(folder, base)
    if (Path(name) / CONFIG).is_file():
        config, _ = read_adapter(Path(name))
        fetched = fetch(parse_ref(str(config.get("base_model_name_or_path"))), say=say)
        tuned = Located(fetched.path, Path(name), Path(name), name, quantisation=read_quantisation(Path(name)))
        return replace(tuned.base, name=name) if base else tuned
    fetched = fetch(parse_ref(name), say=say)
    return Located(fetched.path, None, fetched.path, name)


def _locate_run(folder: Path, base: bool) -> Located:
    manifest, tuned = read_json(folder / MANIFEST), folder / "model"
    origin = Path(manifest["model"]["path"])
    if not origin.is_dir():
        origin = fetch(parse_ref(manifest["model"]["name"]), say=lambda text: None).path
    quantisation = read_quantisation(tuned)
    if base:
        return Located(origin, None, origin, f"{folder} (base)", folder, quantisation)
    if not tuned.is_dir():
        raise MissingInputError(
            "this run has no finished model yet", where=str(folder), fix=f"tutelage train {folder / 'recipe.yaml'}"
        )
    if (tuned / CONFIG).is_file():
        return Located(origin, tuned, tuned, str(folder), folder, quantisation)
    return Located(tuned, None, tuned, str(folder), folder)


def load_located(located: Located, dtype: torch.dtype, *, merge: bool = True) -> Opened:
    """The located model in `dtype`; its adapter is added to its weights, or with `merge=False` computed beside them.

    A quantised base has the values it was trained with; merged, or without an adapter, they are dequantised for good.
    """
    check_folder(located.model)
    loaded = load_base(
        lambda dtype: load_model(located.model, dtype=dtype), located.model, dtype, located.quantisation
    ).to(device_name())
    if located.adapter is not None:
        lora.attach(loaded, located.adapter)
    if merge or located.adapter is None:
        dequantise(loaded)
        lora.merge(loaded)
    has_own = (located.tokenizer / "tokenizer.json").is_file()
    tokens = load_tokenizer(located.tokenizer if has_own else located.model)
    template = Template.of(tokens, eos_ids=loaded.generation_config.eos_token_id)
    return Opened(loaded.eval(), tokens, template, located.name)
