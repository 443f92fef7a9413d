"""Everything that is known before a weight is loaded: data, tokenizer, template, encoded rows and the token contract."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.data.prepare import prepare
from tutelage.data.types import Conversation, Dropped, Prepared
from tutelage.encode.contract import Contract, Fitted, examine, fit
from tutelage.encode.preview import examples
from tutelage.encode.rows import Rows
from tutelage.encode.store import Stored, key_of, open_store
from tutelage.encode.template import Template
from tutelage.errors import DataError, MissingInputError
from tutelage.models.fetch import fetch
from tutelage.models.load import load_tokenizer
from tutelage.models.ref import parse_ref
from tutelage.models.safety import check_folder
from tutelage.models.types import Fetched
from tutelage.recipe import Recipe
from tutelage.runs import read_json
from tutelage.tasks import chat

Say = Callable[[str], None]


@dataclass(frozen=True)
class Material:
    """What a recipe trains on, checked."""

    prepared: Prepared
    fetched: Fetched
    template: Template
    train: Fitted
    validation: Fitted
    contract: Contract
    tokens: str  # sha256 of the encoded rows
    loaded: Any = None  # a model that the caller has loaded already; it is trained in place

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Every row that is not used, from the file to the length limit."""
        return (*self.prepared.dropped, *self.train.dropped, *self.validation.dropped)

    def contract_json(self, first: int = 2) -> dict[str, Any]:
        """The contract with its coloured examples, as contract.json holds it."""
        return {**self.contract.as_json(), "examples": examples(self.template, self.train.rows, first)}


def gather(recipe: Recipe, say: Say, loaded: tuple[Any, Any] | None = None) -> Material:
    """Read, check and encode what `recipe` names; every problem of a stage is raised before the next one starts."""
    prepared = prepare(recipe.data, seed=recipe.seed)
    for file, name in prepared.formats.items():
        say(f"data: {file} is {name}")
    if loaded is None:
        fetched = fetch(parse_ref(recipe.model), say=say)
        template = open_template(fetched.path, recipe.task.chat_template)
    else:
        model, tokenizer = loaded
        fetched = Fetched(Path(model.name_or_path or "."), "memory", weights_sha256(model))
        eos_ids = model.generation_config.eos_token_id
        template = Template.of(tokenizer, eos_ids=eos_ids, text=read_template(recipe.task.chat_template))
    stored = {
        name: encoded(template, recipe, name, part, prepared.fingerprint, say)
        for name, part in (("train", prepared.train), ("validation", prepared.validation))
    }
    train, validation = (fit(part.rows, recipe.max_tokens, recipe.over_length) for part in stored.values())
    if not train.rows:
        raise DataError(
            f"no training row fits into {recipe.max_tokens} tokens", where="max_tokens",
            why=f"{train.over_length} rows are longer", fix="raise max_tokens, or set over_length: truncate",
        )  # fmt: skip
    contract = examine(template, (chat.with_system(row, recipe.task.system) for row in prepared.train), train)
    tokens = hashlib.sha256("".join(part.sha256 for part in stored.values()).encode()).hexdigest()
    return Material(prepared, fetched, template, train, validation, contract, tokens, loaded[0] if loaded else None)


def encoded(
    template: Template, recipe: Recipe, name: str, part: Sequence[Conversation], fingerprint: str, say: Say
) -> Stored:
    """The rows of one part of the data as tokens, from the store of an earlier run if there is one."""
    if not part:
        return Stored(Rows.of([]), "", reused=False)
    places = hashlib.sha256("\n".join(str(row.at) for row in part).encode()).hexdigest()
    key = key_of(template, chat.encoding(recipe.task), f"{fingerprint} {name} {places}")
    stored = open_store(key, lambda: chat.encode(template, recipe.task, part), say)
    if stored.reused:
        say(f"data: the tokens of {len(part)} {name} rows are those of an earlier run")
    return stored


def open_template(model: Path, chat_template: str | None = None) -> Template:
    """The tokenizer of a model folder with its chat template, or with the Jinja file `chat_template`."""
    check_folder(model)
    return Template.of(load_tokenizer(model), eos_ids=stop_ids_of(model), text=read_template(chat_template))


def read_template(file: str | None) -> str | None:
    """The text of a recipe's Jinja file, if it names one."""
    if file is None:
        return None
    if not Path(file).is_file():
        raise MissingInputError("there is no such chat template", where="task.chat_template", why=file)
    return Path(file).read_text(encoding="utf-8")


def weights_sha256(model: Any) -> str:
    """The sha256 over all weights of a loaded model, by name and content."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stop_ids_of(model: Path) -> Sequence[int]:
    """The end-of-sequence ids in generation_config.json."""
    path = model / "generation_config.json"
    ids = read_json(path).get("eos_token_id") if path.is_file() else None
    return [ids] if isinstance(ids, int) else [i for i in ids or [] if isinstance(i, int)]
