"""Writes docs/recipe.md and docs/cli.md from the declarations in tutelage/recipe.py and tutelage/options.py.

python docs/generate.py            write both
python docs/generate.py --check    exit with 1 if either is stale
"""

import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from tutelage.options import VERBS
from tutelage.recipe import (
    BatchSpec,
    DataSpec,
    DedupeSpec,
    FullSpec,
    HalfSpec,
    LoraSpec,
    LossSpec,
    OptimSpec,
    QloraSpec,
    Recipe,
    SaveSpec,
    SourceSpec,
    Spec,
    SplitSpec,
    ValidateSpec,
)
from tutelage.taskspec import TASKS

FOLDER = Path(__file__).parent
HEAD = "<!-- Written by docs/generate.py from {source}. Change that file, then run `make docs`. -->\n"

# What keys mean whose declaration has no description; one that gets its own must leave this table.
MEANINGS = {
    "task": "what is learnt: `chat`, `classify`, `tag`, `extract`, `seq2seq` or `text` ([tasks](tasks.md)); short for "
    "`{kind: chat}`",
    "data": "where the labelled rows are",
    "method": "what trains: `lora`, `qlora` ([QLoRA](qlora.md)), `full` or `half` ([half](half.md)); short for `{kind: lora}`",
    "optim": "the optimiser and its schedule",
    "over_length": "what happens to an example longer than `max_tokens`: dropped and listed, or cut at its end and counted",
    "precision": "what frozen weights and activations are held in; trained weights and their moments are always fp32. "
    "`auto` measures the machine; `fp16` is refused for now",
    "seed": "of the split, of the order of rows, of the first adapter weights and of dropout",
    "save": "when checkpoints are written",
    "validate": "when held-out rows are scored",
    "batch": "how a step is run; never what it computes",
    "threads": "processor threads; none: all that this process may use",
    "data.train.path": "a file (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.conll`, `.txt`) or a folder of such files",
    "task.kind": "the task",
    "method.kind": "the method",
    "method.rank": "the adapter's rank r",
    "method.alpha": "the adapter's output is scaled by alpha / rank",
    "method.dropout": "dropout on the adapter's input; switches the shared prefix off",
    "optim.learning_rate": "the highest learning rate",
    "optim.epochs": "passes over the training rows; may be a fraction",
    "optim.batch_size": "examples per optimiser step, however many micro-batches they are run in",
    "optim.schedule": "how the rate falls after the warm-up: to 0 along a cosine or a line, or not at all",
    "optim.weight_decay": "AdamW's; biases and norm weights never decay",
    "optim.max_grad_norm": "gradients are scaled down to this norm",
    "optim.betas": "AdamW's averaging factors",
    "optim.eps": "AdamW's epsilon",
    "save.keep": "how many of the newest checkpoints stay",
}
SECTIONS: list[tuple[str, str, type[Spec]]] = [
    ("The top level", "", Recipe),
    ("`data`", "data.", DataSpec),
    ("A source in `data.train`, `data.validation` or `data.test`", "data.train.", SourceSpec),
    *((f"`task: {kind}`", "task.", spec) for kind, spec in TASKS.items()),
    ("`data.dedupe`", "data.dedupe.", DedupeSpec),
    ("`data.split`", "data.split.", SplitSpec),
    ("`method: lora`", "method.", LoraSpec),
    ("`method: qlora`", "method.", QloraSpec),
    ("`method: full`", "method.", FullSpec),
    ("`method: half`", "method.", HalfSpec),
    ("`optim`", "optim.", OptimSpec),
    ("`loss`", "loss.", LossSpec),
    ("`save`", "save.", SaveSpec),
    ("`validate`", "validate.", ValidateSpec),
    ("`batch`", "batch.", BatchSpec),
]
RECIPE_INTRO = """# Recipe reference

A recipe is a YAML file. `model` and `data.train` are required; everything else has the default below. Unknown keys,
keys that stand twice and wrong values are errors that name the key, all of them at once (exit code 78). Every key can
be overridden on the command line, with a value in YAML: `--set optim.epochs=2 --set method.kind=full`.

Relative paths start from the folder in which the command runs. Between two starts of one run, `out`, `save` and `samples`
may change. `precision`, `batch` and `threads` are settled at its first start: another `batch` has no effect later. A change
of anything else is refused unless `--allow-changes` is given (see [exact resume](exact-resume.md)).

```yaml
model: smollm2-135m
data:
  train: [support.jsonl]
  validation: 0.1
method: {kind: lora, rank: 16, alpha: 32}
optim: {learning_rate: 2.0e-4, epochs: 3, batch_size: 8}
max_tokens: 1024
```
"""
CLI_INTRO = """# Command reference

`tutelage VERB --help` prints the same. In Python each verb is a function of the same name with the same options
(`tutelage.train("recipe.yaml", set=["optim.epochs=2"])`, `tutelage.models_get("smollm2-135m")`), which returns what
`--json` prints.

Every verb also takes `--json` (the result as one JSON document on stdout; everything else goes to stderr) and `--debug`
(show tracebacks). Exit codes are in [errors](errors.md).
"""


def type_text(annotation: Any) -> str:
    """A type as a reader of YAML understands it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(args[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys("none" if arg is NoneType else type_text(arg) for arg in args))
    if origin is Literal:
        return " or ".join(f"`{arg}`" for arg in args)
    if origin is list:
        return f"list of {type_text(args[0])}"
    if origin is dict:
        return "mapping of numbers"
    if origin is tuple:
        return "list of numbers" if args[0] is float else "list of rows"
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return "path" if annotation is SourceSpec else "mapping"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def bounds(field: FieldInfo) -> str:
    """The limits that a number must keep, in words."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [f"{words[key]} {getattr(rule, key):g}" for rule in field.metadata for key in words if hasattr(rule, key)]
    return ", " + ", ".join(found) if found else ""


def default_text(field: FieldInfo) -> str:
    """The default as it would stand in YAML."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Spec):
        kind = getattr(value, "kind", None)
        return f"`{kind}`" if kind else "see below"
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(str(item) for item in value)}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def meaning(key: str, field: FieldInfo) -> str:
    """What the key means: its own description, or that of the table above; never both, never neither."""
    if (field.description is None) == (key not in MEANINGS):
        raise SystemExit(f"docs/generate.py: `{key}` must have a meaning in tutelage/recipe.py or in MEANINGS")
    return field.description or MEANINGS[key]


def recipe_page() -> str:
    """docs/recipe.md."""
    lines = [HEAD.format(source="tutelage/recipe.py"), RECIPE_INTRO]
    for title, prefix, spec in SECTIONS:
        lines += [f"## {title}\n", (spec.__doc__ or "").strip() + "\n"]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in spec.model_fields.items():
            key = prefix + (field.alias or name)
            if key == "data.train" and spec is DataSpec:
                kind = "path, source or list of them"
            elif key in ("data.validation", "data.test"):
                kind = type_text(field.annotation).replace("list of path", "path, source or list of them")
            else:
                kind = type_text(field.annotation)
            cells = (f"`{key}`", kind + bounds(field), default_text(field), meaning(key, field))
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def flags(options: type) -> Iterator[tuple[str, str, str, str]]:
    """(name, value, default, help) of every argument and option of a verb, as tutelage/cli.py builds them."""
    hints = get_type_hints(options, include_extras=True)
    for field in fields(options):
        kind, text = get_args(hints[field.name])
        if field.default is MISSING:
            yield field.name.upper(), "", "required", text
            continue
        if field.metadata.get("positional"):
            yield field.name.upper(), "", "none", text
            continue
        names = {str: "TEXT", int: "NUMBER", float: "NUMBER", bool: ""}
        inner = next((arg for arg in (kind, *get_args(kind)) if arg in names), str)
        value = "KEY=VALUE" if field.name == "set" else names[inner]
        default = "none" if field.default in (None, ()) else f"`{field.default}`" if kind is not bool else "off"
        yield "--" + field.name.replace("_", "-"), value, default, text


def cli_page() -> str:
    """docs/cli.md."""
    lines = [HEAD.format(source="tutelage/options.py"), CLI_INTRO]
    for name, options in VERBS.items():
        found = list(flags(options))
        places = [flag if left == "required" else f"[{flag}]" for flag, _, left, _ in found if not flag.startswith("-")]
        command = " ".join(["tutelage", *name.split("_"), *places])
        lines += [f"## {name.replace('_', ' ')}\n", f"{(options.__doc__ or '').strip()}\n"]
        lines.append(f"`{command}{' [OPTIONS]' if any(f.startswith('-') for f, *_ in found) else ''}`\n")
        if found:
            lines += ["| argument | default | meaning |", "|---|---|---|"]
            lines += [
                f"| `{' '.join((flag, value)).strip()}` | {default} | {text} |" for flag, value, default, text in found
            ]
            lines.append("")
    return "\n".join(lines)


PAGES = {"recipe.md": recipe_page, "cli.md": cli_page}


def main() -> int:
    """Write the pages, or with --check compare them."""
    stale = []
    for name, page in PAGES.items():
        path, text = FOLDER / name, page().rstrip() + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(f"docs/{name}")
    if stale:
        print(f"stale: {', '.join(stale)}; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
