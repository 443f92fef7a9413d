"""The typed recipe: one declaration of every key, its default and its meaning. Unknown keys are errors.

Torch-free, so that a wrong recipe is refused before anything heavy is imported.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tutelage.errors import MissingInputError, Problem, RecipeError
from tutelage.methodspec import LoraSpec as LoraSpec
from tutelage.methodspec import QloraSpec as QloraSpec
from tutelage.registry import suggestion
from tutelage.taskspec import TASKS, ClassifySpec, ExtractSpec, Seq2SeqSpec, Spec, TagSpec, TextSpec
from tutelage.taskspec import ChatSpec as ChatSpec  # named here by who reads recipes
from tutelage.unions import one_each, typed

SECRET_KEY = re.compile(r"(^|_)(token|api_key|key|password|secret)$")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | dict) else value


def _kind_only(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


Task = Annotated[
    Annotated[ChatSpec | ClassifySpec | TagSpec | ExtractSpec | Seq2SeqSpec | TextSpec, Field(discriminator="kind")],
    BeforeValidator(_kind_only),
]


class SourceSpec(Spec):
    """One training source: a file or folder, optionally with its format."""

    path: str
    format: str | None = Field(None, description="the data format; detected from the rows where not given")
    columns: dict[str, str] = Field(default_factory=dict, description="names to read columns as: {prompt: question}")
    target: str | None = Field(None, description="a file whose line i is the target of line i of `path`")
    weight: float = Field(
        1.0, gt=0, description="how often its rows come in an epoch: 2 is twice, 0.5 every second one"
    )
    loss: Literal["tokens", "examples"] = Field(
        "tokens", description="examples: each row counts 1 in the loss, however many tokens it trains"
    )
    task: Task | None = Field(None, description="of these rows, where one model learns several tasks")


def _source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


Source = Annotated[SourceSpec, BeforeValidator(_source)]
Sources = Annotated[list[Source], BeforeValidator(_listed)]


class DedupeSpec(Spec):
    """Which repeats `data prepare` removes."""

    exact: bool = Field(True, description="rows equal but for case, punctuation and spaces: the first is kept")
    near: float | None = Field(0.8, ge=0.3, le=1.0, description="the Jaccard similarity of near-duplicates; none: kept")
    by: Literal["both", "prompt", "answer"] = Field("both", description="what of two rows must be alike")
    keep: Literal["longest", "first"] = Field(
        "longest", description="which of near-duplicates: longest answer, or first"
    )
    contradictions: Literal["keep", "drop"] = Field("keep", description="rows with one input and different answers")


class SplitSpec(Spec):
    """How `data prepare` splits by `validation` and `test` shares: by a hash of the input, so that rows stay put."""

    group: str | None = Field(None, description="a column; rows with the same value stay on one side")
    time: str | None = Field(None, description="a column; the latest rows are held out")
    stratify: bool = Field(False, description="hold out the same share of every label")


class DataSpec(Spec):
    """Where the labelled rows are. In Python, `rows` may hold them in memory instead of `train`."""

    train: Sources = Field(default_factory=list, description="files or folders")
    rows: tuple[dict[str, Any], ...] = Field((), exclude=True, description="rows in memory (Python only)")
    validation: float | Sources | None = Field(None, description="a share between 0 and 1, or files")
    test: float | Sources | None = Field(None, description="a share (with `prepared`), or files: checked for overlap")
    prepared: str | None = Field(None, description="the folder `data prepare` writes, and from which is then trained")
    clean: list[str | dict[str, Any]] = Field(
        default_factory=list, description="changes to the cleaning rules, e.g. [-whitespace, +mask_personal]"
    )
    dedupe: DedupeSpec = Field(default=DedupeSpec(), description="which repeats `data prepare` removes")
    split: SplitSpec = Field(default=SplitSpec(), description="how `data prepare` splits")
    leak: Literal["remove", "report"] = Field("remove", description="training rows that held-out files also have")
    broken: Literal["drop", "error"] = Field("drop", description="rows that cannot be read, in `data prepare`")
    decisions: str | None = Field(None, description="a file of decisions that `data review` wrote")

    @model_validator(mode="before")
    @classmethod
    def _tell_rows_from_files(cls, values: Any) -> Any:
        train = values.get("train") if isinstance(values, dict) else None
        if isinstance(train, list) and train and all(isinstance(row, dict) and "path" not in row for row in train):
            return {**values, "train": [], "rows": tuple(train)}
        return values

    @model_validator(mode="after")
    def _share_is_a_share(self) -> "DataSpec":
        held_out = self.validation if isinstance(self.validation, float) else 0.0
        if isinstance(self.validation, float) and not 0.0 <= self.validation < 1.0:
            raise ValueError("validation: a share must be at least 0 and below 1")
        if isinstance(self.test, float) and not 0.0 <= self.test + held_out < 1.0:
            raise ValueError("test: the shares must be at least 0 and together below 1")
        if not self.train and not self.rows and not self.prepared:
            raise ValueError("train: name at least one file or row")
        return self


class FullSpec(Spec):
    """Method `full`: every parameter trains, or those that patterns for parameter names leave."""

    kind: Literal["full"] = "full"
    train: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="only parameters that match, e.g. [layers.20-29, norm] ([patterns](half.md#freezing-by-pattern))",
    )
    freeze: list[str] = Field(default_factory=list, description="parameters that do not train, e.g. [embed_tokens]")


def _round(value: object) -> object:
    if value not in ("run", "epoch") and (type(value) is not int or value < 1):
        raise ValueError("a round is `run`, `epoch` or a number of optimiser steps")
    return value


class HalfSpec(Spec):
    """Method `half` (Hui et al. 2024, arXiv 2404.18466): in each round a random half of the matrices and norms trains."""

    kind: Literal["half"] = "half"
    round: Annotated[Literal["run", "epoch"] | Annotated[int, Field(ge=1)], BeforeValidator(_round)] = Field(
        "run", description="when another half is drawn: never, every epoch, or every so many optimiser steps"
    )


class OptimSpec(Spec):
    """AdamW (arXiv 1711.05101) and its schedule. `batch_size` is examples per optimiser step, however they are run."""

    kind: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit: moments of a byte a value (arXiv 2110.02861); needs tutelage[qlora]"
    )
    learning_rate: float = Field(2e-4, gt=0)
    epochs: float = Field(3.0, gt=0)
    steps: int | None = Field(None, ge=1, description="optimiser steps; overrides epochs")
    batch_size: int = Field(8, ge=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0.0, lt=1.0, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    neftune_alpha: float | None = Field(
        None, gt=0, description="noise on the embeddings while training (NEFTune, arXiv 2310.05914), e.g. 5; none: none"
    )
    dropout: float = Field(
        0.0, ge=0.0, lt=1.0,
        description="while training, of an encoder's embeddings and of what its layers add (elsewhere: `hidden_dropout_prob`, 0.1)",
    )  # fmt: skip
    attention_dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="the same of its attention weights (elsewhere: `attention_probs_dropout_prob`, 0.1)",
    )  # fmt: skip


class SaveSpec(Spec):
    """When checkpoints are written; the best and the last are always kept."""

    every: int | None = Field(None, ge=1, description="optimiser steps; none: at the end, and about every 5 minutes")
    keep: int = Field(2, ge=1)


class ValidateSpec(Spec):
    """When held-out rows are scored."""

    every: int | None = Field(None, ge=1, description="optimiser steps; none: before the first step and every epoch")
    patience: int | None = Field(None, ge=1, description="stop after this many validations without a better loss")
    rows: int = Field(200, ge=1, description="score at most this many rows, the same ones each time")


class LossSpec(Spec):
    """What is added to the loss."""

    kl: float = Field(
        0.0, ge=0.0, description="times KL(base || tuned) in nats at every target: holds the model to what it was "
        "([against forgetting](forgetting.md)); for tasks whose targets are tokens of a causal model"
    )  # fmt: skip


class BatchSpec(Spec):
    """Execution only: changes speed and memory, never the mathematics."""

    tokens: int | Literal["auto"] = Field("auto", description="the micro-batch budget in tokens")
    share_prefix: bool = Field(True, description="compute a prefix that all rows of a micro-batch share only once")


Method = Annotated[
    Annotated[LoraSpec | QloraSpec | FullSpec | HalfSpec, Field(discriminator="kind")],
    BeforeValidator(_kind_only),
]


class Recipe(Spec):
    """Everything that decides what a run computes."""

    model: str = Field(..., description="catalogue name, hub id[@revision], or folder")
    task: Task = Field(default=ChatSpec())
    data: DataSpec
    method: Method = Field(default=LoraSpec())
    optim: OptimSpec = Field(default=OptimSpec())
    loss: LossSpec = Field(default=LossSpec(), description="what is added to the loss, against forgetting")
    max_tokens: int = Field(1024, ge=2, description="the longest example in tokens")
    over_length: Literal["drop", "truncate"] = "drop"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = Field(0, ge=0)
    out: str | None = Field(None, description="the run folder; none: runs/<recipe name>")
    save: SaveSpec = Field(default=SaveSpec())
    validate_: ValidateSpec = Field(default=ValidateSpec(), alias="validate")
    batch: BatchSpec = Field(default=BatchSpec())
    threads: int | None = Field(None, ge=1)
    samples: list[str] = Field(default_factory=list, description="prompts answered before and after, for the report")
    forgetting: bool = Field(True, description="generative models: measure on small probes what training took away")

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _base_has_the_same_targets(self) -> "Recipe":
        own_head = self.task.kind in ("tag", "extract") or (self.task.kind == "classify" and not self.task.verbalised)
        if self.loss.kl and own_head:
            raise ValueError(
                f"loss.kl: the task {self.task.kind} trains a head that the base model lacks: leave `loss.kl` out, or use "
                "`task: {kind: classify, verbalised: true}`"
            )
        return self


class _Loader(yaml.SafeLoader):
    """YAML with two repairs: `1e-4` is a number, and a key that stands twice is an error."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$|^[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def _mapping_without_repeats(loader: _Loader, node: yaml.MappingNode) -> dict[object, object]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key `{key}` stands twice", node.start_mark)
    return dict(loader.construct_pairs(node))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats)


def read_recipe(path: str | Path, overrides: tuple[str, ...] = (), *, model: str | None = None) -> Recipe:
    """The recipe in the YAML file at `path` with `a.b=value` overrides; relative paths stay as written.

    `model` stands in where the recipe names none.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError("there is no such recipe", where=str(path), fix="name a YAML file, e.g. recipe.yaml")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # SafeLoader's subclass
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError("this is not YAML", where=str(path), why=" ".join(str(error).split())) from error
    if not isinstance(values, dict):
        raise RecipeError("a recipe is a mapping of keys", where=str(path), fix="start with `model:` and `data:`")
    given = {"model": model} if model else {}
    return make_recipe({**given, **apply_overrides(values, overrides)}, str(path), stem=path.stem)


def read_data(path: str | Path, overrides: tuple[str, ...] = ()) -> tuple[DataSpec, int, str]:
    """The data part of a recipe, its seed and its name; the recipe need not name a model yet."""
    recipe = read_recipe(path, overrides, model="none yet")
    return recipe.data, recipe.seed, Path(path).stem


def apply_overrides(values: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """`values` with each `a.b=value` (the value read as YAML) written over it."""
    result: dict[str, Any] = _copied(values)
    for override in overrides:
        dotted, sign, text = override.partition("=")
        if not sign or not dotted.strip():
            raise RecipeError(f"`{override}` is not an override", where="--set", fix="--set optim.epochs=2")
        try:
            value = yaml.load(text, Loader=_Loader) if text.strip() else None
        except yaml.YAMLError as error:
            raise RecipeError(f"the value of `{override}` is not YAML", where="--set", why=str(error)) from error
        at = result
        *parents, last = dotted.strip().split(".")
        for parent in parents:
            inner = at.get(parent)
            if isinstance(inner, str) and parent in ("method", "task"):  # `method: lora` is short for {kind: lora}
                inner = {"kind": inner}
            if inner is not None and not isinstance(inner, dict):
                raise RecipeError(f"`{parent}` has no keys of its own", where=f"--set {override}")
            at[parent] = at = inner if inner is not None else {}
        at[last] = value
    return result


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def make_recipe(values: dict[str, Any], where: str = "recipe", stem: str | None = None) -> Recipe:
    """The recipe that `values` spell, or an error that lists every problem with its key."""
    problems = [
        Problem(
            f"`{key}` looks like a secret", f"{where}: {key}",
            "recipes are copied into run folders and reports", "set it in the environment instead",
        )
        for key in values
        if isinstance(key, str) and SECRET_KEY.search(key)
    ]  # fmt: skip
    if problems:
        raise RecipeError(problems)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError([_problem(item, where) for item in one_each(error.errors())]) from error
    return recipe if recipe.out else recipe.model_copy(update={"out": f"runs/{stem or 'run'}"})


# Keys that users of other tools type, and what they are called here.
ALIASES = {
    "num_train_epochs": "optim.epochs", "num_epochs": "optim.epochs", "epochs": "optim.epochs",
    "learning_rate": "optim.learning_rate", "lr": "optim.learning_rate", "batch_size": "optim.batch_size",
    "per_device_train_batch_size": "optim.batch_size", "gradient_accumulation_steps": "optim.batch_size",
    "base_model": "model", "model_name_or_path": "model", "dataset": "data.train", "datasets": "data.train",
    "lora_r": "method.rank", "r": "rank", "lora_alpha": "method.alpha", "lora_dropout": "method.dropout",
    "use_rslora": "method.rslora", "use_dora": "method.dora", "init_lora_weights": "method.init",
    "loraplus_lr_ratio": "method.loraplus_ratio", "layers_to_transform": "method.layers", "targets": "target_modules",
    "lora_target_modules": "method.target_modules", "neftune_noise_alpha": "optim.neftune_alpha",
    "hidden_dropout_prob": "optim.dropout", "dropout": "optim.dropout",
    "attention_probs_dropout_prob": "optim.attention_dropout",
    "output_dir": "out", "sequence_len": "max_tokens", "cutoff_len": "max_tokens", "max_length": "max_tokens",
    "max_seq_length": "max_tokens", "adapter": "method", "bf16": "precision", "fp16": "precision",
    "save_steps": "save.every", "eval_steps": "validate.every", "val_set_size": "data.validation",
}  # fmt: skip


# Tags of unions, which pydantic puts into the place of an error and nobody has typed.
METHODS: dict[str, type[Spec]] = {"full": FullSpec, "half": HalfSpec, "lora": LoraSpec, "qlora": QloraSpec}
KINDS = {*METHODS, *TASKS}


def _problem(item: Mapping[str, Any], where: str) -> Problem:
    location = [str(part) for part in typed(item["loc"]) if str(part) not in KINDS]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = _keys_beside(item["loc"])
        name = location[-1]
        fix = f"here it is called `{ALIASES[name]}`" if name in ALIASES else suggestion(name, known)
        return Problem(f"unknown key `{key}`", where, fix=fix)
    if item["type"] == "missing":
        return Problem(f"`{key}` is missing", where, fix=f"add `{key}:`")
    if item["type"].startswith("union_tag"):
        known = sorted(TASKS if key == "task" else METHODS)
        why = f"it is {item.get('ctx', {}).get('tag')!r}"
        return Problem(f"`{key}.kind` must be one of {', '.join(known)}", where, why=why)
    given = item.get("input")
    shown = f", and is {given!r}" if isinstance(given, str | int | float | bool) or given is None else ""
    message = item["msg"].removeprefix("Value error, ")
    return Problem(f"`{key}`: {message}{shown}" if key else message, where)


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    specs: dict[str, type[Spec]] = {
        "data": DataSpec, **TASKS, **METHODS, "optim": OptimSpec, "loss": LossSpec,
        "save": SaveSpec, "validate": ValidateSpec, "batch": BatchSpec, "train": SourceSpec, "dedupe": DedupeSpec,
        "split": SplitSpec,
    }  # fmt: skip
    for part in reversed(location[:-1]):
        if isinstance(part, str) and part in specs:
            return [field.alias or name for name, field in specs[part].model_fields.items()]
    return [field.alias or name for name, field in Recipe.model_fields.items()]


def as_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML; rows in memory are replaced by their count."""
    values = recipe.model_dump(mode="json", by_alias=True)
    if recipe.data.rows:
        values["data"]["train"] = f"<{len(recipe.data.rows)} rows in memory>"
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
