"""What a model folder must not contain, checked before any loader sees it. Torch-free.

`trust_remote_code=False` was no boundary in 2026 (CVE-2026-4372, CVE-2026-5241): a config could name kernels or switch
it on again. So the JSON files are read here first. Weights come from safetensors only; pickles that lie beside them
(pytorch_model.bin, training_args.bin) are never opened, and are a reason to refuse only where there is nothing else.
`_name_or_path`, `name_or_path` and `base_model_name_or_path` are left alone: they say where a model was saved from, are
absolute in many honest models, and no loader follows them in a local folder.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

from tutelage.errors import MissingInputError, ModelError, Problem
from tutelage.models.safetensors_file import read_header, shards

MAX_JSON = 4 << 20  # bytes of one small JSON file
MAX_INDEX = 32 << 20
MAX_TOKENIZER = 128 << 20
MAX_DEPTH = 32
MAX_TEMPLATE = 64 << 10
AGAIN = "fetch the file again, or choose another model"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CHECKED = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "adapter_config.json", "processor_config.json", "preprocessor_config.json", "chat_template.json",
)  # fmt: skip
HOSTILE = {
    "custom_pipelines": "it names code to download and run",
    "custom_generate": "it names code to run while generating",
    "trust_remote_code": "a model may not switch on its own code",
    "allow_all_kernels": "it lets kernels (compiled code) be downloaded",
    "use_kernels": "it lets kernels (compiled code) be downloaded",
    "kernel_config": "it names kernels (compiled code) to download",
    "kernels": "it names kernels (compiled code) to download",
    "megatron_config": "it names a Python module to import",
}
IMPLEMENTATION = re.compile(r"_?(attn|attention|experts)_implementation(_internal|_autoset)?")
FILE_KEY = re.compile(r"(^|_)(file|files|filename|path|paths|dir|folder)$")
HARMLESS_PATHS = {"_name_or_path", "name_or_path", "base_model_name_or_path", "special_tokens_map_file"}
OUTSIDE = re.compile(r"^(/|\\|~|[A-Za-z]:[\\/]|[a-z][a-z0-9+.-]*://)|(^|[\\/])\.\.([\\/]|$)")
LIMITS = {
    "num_hidden_layers": 4096, "n_layer": 4096, "num_layers": 4096, "hidden_size": 1 << 20, "n_embd": 1 << 20,
    "d_model": 1 << 20, "vocab_size": 1 << 24, "intermediate_size": 1 << 22, "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14, "head_dim": 1 << 14, "max_position_embeddings": 1 << 30, "sliding_window": 1 << 30,
}  # fmt: skip


def check_folder(path: Path, *, weights: bool = True) -> None:
    """Nothing, or a ModelError with every reason not to load this model or adapter folder; without `weights` it may lack them."""
    if not path.is_dir():
        raise MissingInputError("there is no such model folder", where=str(path))
    problems: list[Problem] = []
    if (
        weights
        or not (path / "config.json").exists()
        or any(file.suffix in (".safetensors", *PICKLES) for file in path.iterdir())
    ):
        problems += _check_weights(path)
    for name in CHECKED:
        if (path / name).exists():
            problems += _check_json(path / name)
    problems += _check_templates(path)
    if problems:
        raise ModelError(problems)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a small file; one that is too large, nested too deeply, or no object is a ModelError."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ModelError(
                "this file is too large", where=str(path), why=f"at most {MAX_JSON} bytes are read", fix=AGAIN
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            "cannot read this file", where=str(path), why=error.strerror or str(error), fix="check its rights"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            "this is not JSON that can be read", where=f"{path}{_place(error)}", why=str(error)[:200], fix=AGAIN
        ) from error
    if not isinstance(value, dict):
        raise ModelError("this is not a JSON object", where=f"{path}:line 1", why=f"it is {str(value)[:50]}", fix=AGAIN)
    for keys, _ in _walk(value):
        if len(keys) > MAX_DEPTH:
            raise ModelError(
                "this file is nested too deeply", where=f"{path}: {keys[0]}"[:500], why=f"at most {MAX_DEPTH} levels",
                fix=AGAIN,
            )  # fmt: skip
    return value


def _place(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f":line {error.lineno}"
    return f":byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""


def _problem(what: str, where: str, why: str, fix: str) -> Problem:
    return Problem(what, where, why, fix)


def _walk(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value inside a JSON value with the keys that lead to it; list items carry the key of their list."""
    stack: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while stack:
        keys, item = stack.pop()
        if keys:
            yield keys, item
        if len(keys) > MAX_DEPTH:
            continue
        if isinstance(item, dict):
            stack += [((*keys, key), inner) for key, inner in item.items()]
        elif isinstance(item, list):
            stack += [((*keys, keys[-1] if keys else ""), inner) for inner in item]


def _check_weights(path: Path) -> list[Problem]:
    adapter = path / "adapter_model.safetensors"
    try:
        if not (path / "config.json").exists() and (path / "adapter_config.json").exists():
            files: tuple[Path, ...] = (adapter,) if adapter.is_file() else ()
        elif not (path / "config.json").exists():
            files_here = sorted(file.name for file in path.glob("*.gguf"))
            fix = f"name the file: {path / files_here[0]}" if files_here else "name the folder that has"
            return [_problem("this is not a model folder", str(path), "it has no config.json", fix)]
        else:
            files = _sized_shards(path)
    except ModelError as error:
        return list(error.problems)
    if not files:
        return [_no_weights(path)]
    problems: list[Problem] = []
    for file in files:
        try:
            read_header(file)
        except ModelError as error:
            problems += error.problems
    return problems


def _sized_shards(path: Path) -> tuple[Path, ...]:
    index = path / "model.safetensors.index.json"
    if index.is_file() and index.stat().st_size > MAX_INDEX:
        raise ModelError(
            "the shard index is too large", where=str(index), why=f"at most {MAX_INDEX} bytes are read", fix=AGAIN
        )
    return shards(path)


def _no_weights(path: Path) -> Problem:
    pickles = sorted(file.name for file in path.iterdir() if file.suffix.lower() in PICKLES)
    if not pickles:
        return _problem("this folder has no safetensors weights", str(path), "", "fetch the model again")
    return _problem(
        f"the only weights here are pickled: {', '.join(pickles[:5])}",
        str(path),
        "a pickle runs code when it is loaded, so it is never read",
        "convert them to safetensors in a sandbox, and name that folder",
    )


def _check_json(file: Path) -> list[Problem]:
    try:
        value = read_object(file)
    except ModelError as error:
        return list(error.problems)
    problems = [problem for keys, item in _walk(value) for problem in _check_value(file, keys, item)]
    if file.name == "config.json":
        problems += _check_model_types(file, value)
    return problems


def _check_value(file: Path, keys: tuple[str, ...], item: Any) -> Iterator[Problem]:
    key, where = keys[-1].strip().lower(), f"{file}: {'.'.join(keys)}"[:500]
    if item is None:
        return
    if key == "auto_map":
        yield _problem(
            "this model names its own code", where, "code from a model folder is not run", "choose another model"
        )
    elif key in HOSTILE:
        yield _problem(f"`{key}` may not stand in a model's files", where, HOSTILE[key], f"delete the key `{key}`")
    elif IMPLEMENTATION.fullmatch(key):
        yield _problem(
            f"`{key}` may not stand in a model's files",
            where,
            "it can name code to download",
            f"delete the key `{key}`",
        )
    elif key == "megatron_core" and item != "megatron.core":
        yield _problem("`megatron_core` names a Python module to import", where, repr(item)[:100], "delete the key")
    elif key == "parent_library" and not (isinstance(item, str) and item.split(".")[0] == "transformers"):
        yield _problem("`parent_library` names a Python module to import", where, repr(item)[:100], "delete the key")
    elif key not in HARMLESS_PATHS and FILE_KEY.search(key) and isinstance(item, str) and OUTSIDE.search(item):
        yield _problem("this path leads out of the model folder", where, repr(item)[:200], "name a file of the folder")
    elif key in LIMITS and not (type(item) is int and 0 < item <= LIMITS[key]) and file.name == "config.json":
        yield _problem(f"`{key}` is not a size that a model has", where, repr(item)[:100], AGAIN)


def _check_model_types(file: Path, config: dict[str, Any]) -> Iterator[Problem]:
    parts = {"": config, **{key: part for key, part in config.items() if key.endswith("_config")}}
    for name, part in parts.items():
        kind = part.get("model_type") if isinstance(part, dict) else None
        if (kind is None and name == "") or (
            kind is not None and (not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES)
        ):
            yield _problem(
                f"the model type {str(kind)[:100]!r} is not one that transformers has",
                f"{file}: {name + '.' if name else ''}model_type",
                "an unknown type would need code from the model folder",
                "update transformers, or choose another model",
            )


def _check_templates(path: Path) -> Iterator[Problem]:
    for file in (path / "chat_template.jinja", *sorted(path.glob("additional_chat_templates/*.jinja"))):
        if file.is_file() and file.stat().st_size > MAX_TEMPLATE:
            yield _problem("this chat template is too long", str(file), f"at most {MAX_TEMPLATE} bytes are read", AGAIN)
    if (path / "tokenizer.json").is_file() and (path / "tokenizer.json").stat().st_size > MAX_TOKENIZER:
        yield _problem(
            "this tokenizer is too large", str(path / "tokenizer.json"), f"at most {MAX_TOKENIZER} bytes", AGAIN
        )
    for file in (path / "tokenizer_config.json", path / "chat_template.json"):
        try:
            templates = read_object(file).get("chat_template") if file.is_file() else None
        except ModelError:  # reported already
            continue
        if len(json.dumps(templates)) > MAX_TEMPLATE:
            yield _problem(
                "the chat template is too long", f"{file}: chat_template", f"at most {MAX_TEMPLATE} bytes", AGAIN
            )
