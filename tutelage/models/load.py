"""Tokenizers and models in memory. The only importer of transformers' model classes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from tutelage.errors import ModelError, is_out_of_memory
from tutelage.models.safety import check_folder, read_object
from tutelage.models.shallow import shallow_config


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without progress bars and warnings, its settings put back at the end."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder, exactly as its tokenizer.json says.

    Not through AutoTokenizer: for some classes, transformers 5 builds the splitting rule from the class and ignores the
    one in tokenizer.json (SmolLM2 says GPT2Tokenizer and would lose "each digit alone").
    """
    check_folder(path)
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ModelError("this folder has no tokenizer.json", where=str(path), fix="fetch the model again")
    try:
        with _quiet():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # the Rust side raises bare Exception
        raise ModelError("the tokenizer cannot be loaded", where=str(file), why=_short(error)) from error
    rule, loaded = _rule(file.read_text(encoding="utf-8")), _rule(tokenizer.backend_tokenizer.to_str())
    if rule != loaded:
        raise ModelError(
            "transformers would split text otherwise than tokenizer.json says",
            where=str(file),
            why=f"{loaded} instead of {rule}"[:400],
            fix="update transformers",
        )
    return tokenizer


def load_model(path: Path, *, dtype: torch.dtype, shallow: bool = False) -> PreTrainedModel:
    """The causal language model of a folder in `dtype`, in eval mode, with every weight from its files.

    `shallow`: only its embeddings, its first layers, as many as hold one of each kind, and its head.
    """
    check_folder(path)
    _refuse_other_kinds(path)
    try:
        with _quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                str(path),
                config=shallow_config(path) if shallow else None,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation=attention_of(read_object(path / "config.json")),
                output_loading_info=True,
            )
    except Exception as error:  # whatever a loader raises on a damaged folder
        if is_out_of_memory(error):
            raise
        raise ModelError("the model cannot be loaded", where=str(path), why=_short(error)) from error
    absent = sorted(str(name) for key in ("missing_keys", "mismatched_keys") for name in report.get(key, ()))
    if absent:
        raise ModelError(
            f"{len(absent)} weights of this model are missing or have another shape than config.json says",
            where=str(path),
            why=", ".join(absent[:5])[:400],
            fix="fetch the model again",
        )
    return model.eval()


def attention_of(config: dict[str, object]) -> str:
    """The attention to load a model with: torch's fused one, but for models that cap their scores, which it cannot."""
    return "eager" if config.get("attn_logit_softcapping") else "sdpa"


def _refuse_other_kinds(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(
            "this is an adapter, not a model", where=str(path), fix="name its base model, and it as adapter"
        )
    config = read_object(path / "config.json")
    if config.get("quantization_config"):
        raise ModelError(
            "this model is stored quantised", where=f"{path / 'config.json'}: quantization_config",
            fix="name the unquantised model",
        )  # fmt: skip
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.get("model_type"))
    said = config.get("architectures") or [known]
    causal = {known} if isinstance(known, str) else set(known or ())
    if not causal or not isinstance(said, list) or not causal & set(map(str, said)):
        raise ModelError(
            f"this is not a causal language model: {', '.join(map(str, said))[:200]}",
            where=f"{path / 'config.json'}: architectures",
            why="a chat model writes one token after the other with a language-model head",
            fix="choose a model whose architecture ends in ForCausalLM",
        )


def _rule(text: str) -> dict[str, object]:
    value = json.loads(text)
    return {key: value.get(key) for key in ("normalizer", "pre_tokenizer")}


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
