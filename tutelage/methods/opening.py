"""Open what can be talked to: a run's tuned model, its untouched base, or any model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.encode.template import Template
from tutelage.engine.precision import choose_precision, device_name
from tutelage.errors import MissingInputError
from tutelage.methods import lora
from tutelage.methods.adapter_file import CONFIG, read_adapter
from tutelage.models.fetch import fetch
from tutelage.models.load import load_model, load_tokenizer
from tutelage.models.ref import parse_ref
from tutelage.models.safety import check_folder
from tutelage.runs import MANIFEST, read_json


@dataclass(frozen=True)
class Opened:
    """A model in eval mode with its tokenizer and chat template."""

    model: Any
    tokenizer: Any
    template: Template
    name: str


def open_model(
    name: str, *, base: bool = False, precision: str = "auto", say: Callable[[str], None] = lambda text: None
) -> Opened:
    """The model of a run folder (with `base` the one it started from), of an adapter or model folder, or of a name.

    `precision` "auto" measures the machine, so that a busy one may choose otherwise the next time.
    """
    folder = Path(name) if (Path(name) / MANIFEST).is_file() else Path("runs") / name
    if (folder / MANIFEST).is_file():
        return _open_run(folder, base, precision)
    if (Path(name) / CONFIG).is_file():
        config, _ = read_adapter(Path(name))
        fetched = fetch(parse_ref(str(config.get("base_model_name_or_path"))), say=say)
        return _open(fetched.path, None if base else Path(name), Path(name), name, precision)
    fetched = fetch(parse_ref(name), say=say)
    return _open(fetched.path, None, fetched.path, name, precision)


def _open_run(folder: Path, base: bool, precision: str) -> Opened:
    manifest, tuned = read_json(folder / MANIFEST), folder / "model"
    origin = Path(manifest["model"]["path"])
    if not origin.is_dir():
        origin = fetch(parse_ref(manifest["model"]["name"]), say=lambda text: None).path
    if base:
        return _open(origin, None, origin, f"{folder} (base)", precision)
    if not tuned.is_dir():
        raise MissingInputError(
            "this run has no finished model yet", where=str(folder), fix=f"tutelage train {folder / 'recipe.yaml'}"
        )
    if (tuned / CONFIG).is_file():
        return _open(origin, tuned, tuned, str(folder), precision)
    return _open(tuned, None, tuned, str(folder), precision)


def _open(model: Path, adapter: Path | None, tokenizer: Path, name: str, wanted: str) -> Opened:
    check_folder(model)
    device = device_name()
    precision, _ = choose_precision(wanted, device)
    loaded = load_model(model, dtype=torch.bfloat16 if precision == "bf16" else torch.float32).to(device)
    if adapter is not None:
        lora.attach(loaded, adapter)
        lora.merge(loaded)
    tokens = load_tokenizer(tokenizer if (tokenizer / "tokenizer.json").is_file() else model)
    return Opened(loaded.eval(), tokens, Template.of(tokens, eos_ids=loaded.generation_config.eos_token_id), name)
