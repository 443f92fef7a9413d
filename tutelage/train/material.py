"""Everything that is known before a weight is loaded: data, tokenizer, template, encoded rows and the token contract."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.prepare import prepare
from tutelage.data.types import Dropped, Prepared
from tutelage.encode.contract import Contract, Fitted, examine, fit
from tutelage.encode.preview import examples
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

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Every row that is not used, from the file to the length limit."""
        return (*self.prepared.dropped, *self.train.dropped, *self.validation.dropped)

    def contract_json(self, first: int = 2) -> dict[str, Any]:
        """The contract with its coloured examples, as contract.json holds it."""
        return {**self.contract.as_json(), "examples": examples(self.template, self.train.rows, first)}


def gather(recipe: Recipe, say: Say) -> Material:
    """Read, check and encode what `recipe` names; every problem of a stage is raised before the next one starts."""
    prepared = prepare(recipe.data, seed=recipe.seed)
    for file, name in prepared.formats.items():
        say(f"data: {file} is {name}")
    fetched = fetch(parse_ref(recipe.model), say=say)
    template = open_template(fetched.path, recipe.task.chat_template)
    train = fit(chat.encode(template, recipe.task, prepared.train), recipe.max_tokens, recipe.over_length)
    validation = fit(chat.encode(template, recipe.task, prepared.validation), recipe.max_tokens, recipe.over_length)
    if not train.rows:
        raise DataError(
            f"no training row fits into {recipe.max_tokens} tokens", where="max_tokens",
            why=f"{train.over_length} rows are longer", fix="raise max_tokens, or set over_length: truncate",
        )  # fmt: skip
    contract = examine(template, [chat.with_system(row, recipe.task.system) for row in prepared.train], train)
    return Material(prepared, fetched, template, train, validation, contract)


def open_template(model: Path, chat_template: str | None = None) -> Template:
    """The tokenizer of a model folder with its chat template, or with the Jinja file `chat_template`."""
    check_folder(model)
    text = None
    if chat_template is not None:
        path = Path(chat_template)
        if not path.is_file():
            raise MissingInputError("there is no such chat template", where="task.chat_template", why=str(path))
        text = path.read_text(encoding="utf-8")
    return Template.of(load_tokenizer(model), eos_ids=stop_ids_of(model), text=text)


def stop_ids_of(model: Path) -> Sequence[int]:
    """The end-of-sequence ids in generation_config.json."""
    path = model / "generation_config.json"
    ids = read_json(path).get("eos_token_id") if path.is_file() else None
    return [ids] if isinstance(ids, int) else [i for i in ids or [] if isinstance(i, int)]
