"""Everything that is known before a weight is loaded: data, tokenizer, template, encoded rows and the token contract."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tutelage.data.prepare import prepare
from tutelage.data.types import Conversation, Dropped, Prepared, Row
from tutelage.encode.contract import Contract, Fitted, fit
from tutelage.encode.rows import Rows
from tutelage.encode.store import Stored, key_of, open_store
from tutelage.encode.template import Template
from tutelage.errors import DataError, ModelError
from tutelage.models.fetch import fetch
from tutelage.models.load import family_of, load_tokenizer
from tutelage.models.ref import parse_ref
from tutelage.models.safety import check_folder, read_object
from tutelage.models.types import Fetched
from tutelage.recipe import Recipe, SourceSpec
from tutelage.runs import read_json
from tutelage.tasks import TASKS, Bound, Opening
from tutelage.tasks.chat import BoundChat, conversations, encode, encoding, read_template
from tutelage.tasks.mixed import open_task
from tutelage.taskspec import ChatSpec

Say = Callable[[str], None]


@dataclass(frozen=True)
class Material:
    """What a recipe trains on, checked. Training rows are given up once there are tokens of them."""

    prepared: Prepared  # without its training rows
    counts: dict[str, int]  # rows per split
    fetched: Fetched
    task: Bound
    train: Fitted
    validation: Fitted
    contract: Contract
    tokens: str  # sha256 of the encoded rows
    loaded: Any = None  # a model that the caller has loaded already; it is trained in place

    @property
    def row_weights(self) -> tuple[float, ...]:
        """How often each training row comes in an epoch; empty where all come once."""
        sources = self.prepared.sources
        weights = tuple(sources[r.at.source].weight if r.at.source in sources else 1.0 for r in self.train.rows)
        return weights if set(weights) - {1.0} else ()

    @property
    def template(self) -> Template:
        """The chat template, for tasks that have one."""
        if self.task.template is None:
            raise ModelError("this task has no chat template")
        return self.task.template

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Every row that is not used, from the file to the length limit."""
        return (*self.prepared.dropped, *self.train.dropped, *self.validation.dropped)

    def contract_json(self, first: int = 2) -> dict[str, Any]:
        """The contract with its coloured examples, as contract.json holds it."""
        return {**self.contract.as_json(), "examples": self.task.examples(self.train, first)}


def gather(
    recipe: Recipe, say: Say, loaded: tuple[Any, Any] | None = None, find: Callable[..., Fetched] = fetch
) -> Material:
    """Read, check and encode what `recipe` names; every problem of a stage is raised before the next one starts.

    `find` gets the model: whole, or `fetch_headers` where its weights are not wanted.
    """
    prepared = prepare(recipe.data, seed=recipe.seed, accepts=lambda source: accepted(recipe, source))
    for file, name in prepared.formats.items():
        say(f"data: {file} is {name}")
    if loaded is None:
        fetched = find(parse_ref(recipe.model), say=say)
        opening = opening_of(fetched.path, recipe, prepared)
    else:
        model, tokenizer = loaded
        fetched = Fetched(Path(model.name_or_path or "."), "memory", weights_sha256(model))
        opening = _opening(
            tokenizer, model.config.to_dict(), as_ids(model.generation_config.eos_token_id), recipe, prepared
        )
    bound = open_task(recipe.task, prepared.sources, opening)
    (train, first), (validation, second) = (
        fitted(bound, recipe, name, part, prepared.fingerprint, say)
        for name, part in (("train", prepared.train), ("validation", prepared.validation))
    )
    if not train.rows:
        raise DataError(
            f"no training row fits into {recipe.max_tokens} tokens", where="max_tokens",
            why=f"{train.over_length} rows are longer", fix="raise max_tokens, or set over_length: truncate",
        )  # fmt: skip
    contract = bound.contract(prepared.train, train)
    tokens = hashlib.sha256((first + second).encode()).hexdigest()
    model = loaded[0] if loaded else None
    rest = replace(prepared, train=())
    return Material(rest, prepared.counts(), fetched, bound, train, validation, contract, tokens, model)


def fitted(
    task: Bound, recipe: Recipe, name: str, part: Sequence[Row], fingerprint: str, say: Say
) -> tuple[Fitted, str]:
    """The rows of one part of the data as tokens, and a sha256 over them. Those of `chat` are kept for the next run."""
    if isinstance(task, BoundChat):
        stored = encoded(task.template, recipe, task.spec, name, conversations(part), fingerprint, say)
        return fit(stored.rows, recipe.max_tokens, recipe.over_length), stored.sha256
    made = task.fit(part)
    digest = hashlib.sha256()
    for row in made.rows:
        digest.update(row.ids.tobytes() + row.weights.tobytes() + (b"" if row.source is None else row.source.tobytes()))
        if row.targets is not None:
            digest.update(row.targets.labels.tobytes() + row.targets.weights.tobytes())
    return made, digest.hexdigest()


def accepted(recipe: Recipe, source: SourceSpec | None) -> tuple[type, ...]:
    """The types of rows that the task of a source reads."""
    spec = (source.task if source else None) or recipe.task
    return TASKS.get(spec.kind).accepts(spec)


def opening_of(model: Path, recipe: Recipe, prepared: Prepared) -> Opening:
    """What a task is bound to, from a model folder."""
    check_folder(model, weights=False)
    return _opening(load_tokenizer(model), read_object(model / "config.json"), stop_ids_of(model), recipe, prepared)


def _opening(
    tokenizer: Any, config: dict[str, Any], eos_ids: Sequence[int], recipe: Recipe, prepared: Prepared
) -> Opening:
    return Opening(
        tokenizer, config, family_of(config), recipe.max_tokens, recipe.over_length, prepared.train,
        (*prepared.validation, *prepared.test), tuple(eos_ids),
    )  # fmt: skip


def encoded(
    template: Template,
    recipe: Recipe,
    spec: ChatSpec,
    name: str,
    part: Sequence[Conversation],
    fingerprint: str,
    say: Say,
) -> Stored:
    """The rows of one part of the data as tokens, from the store of an earlier run if there is one."""
    if not part:
        return Stored(Rows.of([]), "", reused=False)
    places = hashlib.sha256("\n".join(str(row.at) for row in part).encode()).hexdigest()
    key = key_of(template, encoding(spec), f"{fingerprint} {name} {places}")
    stored = open_store(key, lambda: encode(template, spec, part), say)
    if stored.reused:
        say(f"data: the tokens of {len(part)} {name} rows are those of an earlier run")
    return stored


def open_template(model: Path, chat_template: str | None = None) -> Template:
    """The tokenizer of a model folder with its chat template, or with the Jinja file `chat_template`."""
    check_folder(model)
    return Template.of(load_tokenizer(model), eos_ids=stop_ids_of(model), text=read_template(chat_template))


def weights_sha256(model: Any) -> str:
    """The sha256 over all weights of a loaded model, by name and content."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stop_ids_of(model: Path) -> Sequence[int]:
    """The end-of-sequence ids in generation_config.json."""
    path = model / "generation_config.json"
    return as_ids(read_json(path).get("eos_token_id") if path.is_file() else None)


def as_ids(ids: Any) -> list[int]:
    """The ids that a generation config names: one, several or none."""
    return [ids] if isinstance(ids, int) else [i for i in ids or [] if isinstance(i, int)]
