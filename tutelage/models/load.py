"""Tokenizers and models in memory. The only importer of transformers' model classes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils import logging

from tutelage.errors import ModelError, is_out_of_memory
from tutelage.models.fit import check_fit
from tutelage.models.marian import is_marian, load_marian
from tutelage.models.safetensors_file import read_header, shards
from tutelage.models.safety import check_folder, read_object
from tutelage.models.shallow import shallow_config
from tutelage.models.types import Family, HeadWanted

# The class of each head, and the architectures that have it.
HEADS = {
    "causal": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "masked": (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "seq2seq": (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    "classify": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    "tag": (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
    "extract": (AutoModelForQuestionAnswering, MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
}


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


def save_model(model: Any, folder: Path) -> None:
    """Config and weights as safetensors through transformers' own writer, which reverses what its loader renamed."""
    with _quiet():
        model.save_pretrained(folder, safe_serialization=True)


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a model folder, exactly as its tokenizer.json says; a Marian model has two SentencePiece models.

    Not through AutoTokenizer: for some classes, transformers 5 builds the splitting rule from the class and ignores the
    one in tokenizer.json (SmolLM2 says GPT2Tokenizer and would lose "each digit alone").
    """
    check_folder(path, weights=False)
    if is_marian(path):
        return load_marian(path)
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ModelError("this folder has no tokenizer.json", where=str(path), fix="fetch the model again")
    with (
        _blaming(file, "the tokenizer cannot be loaded", "fetch tokenizer.json and tokenizer_config.json again"),
        _quiet(),
    ):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path), local_files_only=True)
    shared = _of_one_id(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False))
    if shared:  # a copy of it would lose one of them, and panic or refuse, as a hash map's order falls
        raise ModelError(
            "the tokenizer contradicts itself", where=str(file), why=f"two of its tokens have one id: {shared}",
            fix="fetch tokenizer.json again",
        )  # fmt: skip
    text = tokenizer.backend_tokenizer.to_str()
    with _blaming(file, "the tokenizer cannot be copied", "fetch tokenizer.json again"):
        Tokenizer.from_str(text)  # what every copy of it goes through
    rule, loaded = _rule(file.read_text(encoding="utf-8")), _rule(text)
    if rule != loaded:
        raise ModelError(
            "transformers would split text otherwise than tokenizer.json says",
            where=str(file),
            why=f"{loaded} instead of {rule}"[:400],
            fix="update transformers",
        )
    return tokenizer


STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def stored_dtype(path: Path) -> torch.dtype:
    """The dtype of most weights in a model folder's files: loaded in it, they are pages of the mapped files and no copies."""
    sizes: dict[torch.dtype, int] = {}
    for file in shards(path):
        for tensor in read_header(file):
            if tensor.dtype in STORED:
                dtype = STORED[tensor.dtype]
                sizes[dtype] = sizes.get(dtype, 0) + tensor.elements
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)


def load_model(path: Path, *, dtype: torch.dtype, shallow: bool = False) -> PreTrainedModel:
    """The causal language model of a folder in `dtype`, in eval mode, with every weight from its files.

    `shallow`: only its embeddings, its first layers, as many as hold one of each kind, and its head.
    """
    check_folder(path)
    _refuse_other_kinds(path)
    check_fit(path)
    try:
        with _quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                str(path),
                config=shallow_config(path) if shallow else None,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a loader raises on a damaged folder
        if is_out_of_memory(error):
            raise
        raise ModelError(
            "the model cannot be loaded",
            where=str(path / "config.json"),
            why=_short(error),
            fix="fetch the model again",
        ) from error
    absent = sorted(str(name) for key in ("missing_keys", "mismatched_keys") for name in report.get(key, ()))
    if absent:
        raise ModelError(
            f"{len(absent)} weights of this model are missing or have another shape than config.json says",
            where=str(path),
            why=", ".join(absent[:5])[:400],
            fix="fetch the model again",
        )
    _check_stops(model, path)
    return model.eval()


def _check_stops(model: PreTrainedModel, path: Path) -> None:
    """The ids that end an answer: None, one, or a list."""
    said = getattr(model.generation_config, "eos_token_id", None)
    listed = said if isinstance(said, list) else [said]
    if said is not None and not all(type(number) is int and number >= 0 for number in listed):
        file = next((f for f in ("generation_config.json", "config.json") if (path / f).is_file()), "config.json")
        raise ModelError(
            "the ids that end an answer are not token ids", where=f"{path / file}: eos_token_id", why=repr(said)[:100],
            fix=f"fetch {file} again",
        )  # fmt: skip


def hollow_model(path: Path, wanted: HeadWanted, *, dtype: torch.dtype) -> PreTrainedModel:
    """The model that `load_model` or `load_with_head` would give, from config.json alone: its tensors are torch's `meta` ones."""
    config = _config_with(path, wanted)
    try:
        with _quiet(), torch.device("meta"):
            model: PreTrainedModel = HEADS[wanted.kind][0].from_config(config, dtype=dtype)
    except Exception as error:  # whatever a constructor raises on a damaged config
        raise ModelError("the model cannot be built", where=str(path / "config.json"), why=_short(error)) from error
    return model.eval()


def _config_with(path: Path, wanted: HeadWanted) -> Any:
    """The config of a folder with the label names of a task's head."""
    config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    if wanted.labels:
        config.id2label = dict(enumerate(wanted.labels))
        config.label2id = {name: i for i, name in enumerate(wanted.labels)}
        config.problem_type = wanted.problem
    if wanted.kind == "extract":
        config.num_labels = 2  # start and end, whatever the model was saved for
    return config


def family_of(config: dict[str, Any]) -> Family:
    """What kind of transformer a model with this config.json is."""
    kind = str(config.get("model_type"))
    if config.get("is_encoder_decoder") or kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "encoder-decoder"
    return "encoder" if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder") else "decoder"


def load_with_head(path: Path, wanted: HeadWanted, *, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a folder with the head that a task needs, in eval mode.

    A head that the files do not hold is drawn as transformers draws it, from torch's generator; everything else must be
    there. Label names go into the config. A causal model is what `load_model` gives.
    """
    if wanted.kind == "causal":
        return load_model(path, dtype=dtype)
    check_folder(path)
    _refuse_quantised(path)
    check_fit(path)
    loader, known = HEADS[wanted.kind]
    config_json = read_object(path / "config.json")
    kind = str(config_json.get("model_type"))
    if kind not in known:
        raise ModelError(
            f"a {kind} model cannot be trained for the task {wanted.kind}", where=f"{path / 'config.json'}: model_type",
            why="transformers has no such head for it", fix=f"choose a {_suited(wanted.kind)} model, or another task",
        )  # fmt: skip
    try:
        with _quiet():
            config = _config_with(path, wanted)
            model, report = loader.from_pretrained(
                str(path), config=config, dtype=dtype, local_files_only=True, use_safetensors=True,
                trust_remote_code=False, attn_implementation="sdpa", output_loading_info=True,
                ignore_mismatched_sizes=wanted.kind in ("classify", "tag", "extract"),
            )  # fmt: skip
    except Exception as error:  # whatever a loader raises on a damaged folder
        raise ModelError(
            "the model cannot be loaded",
            where=str(path / "config.json"),
            why=_short(error),
            fix="fetch the model again",
        ) from error
    _check_body(model, report, path, fresh_head=wanted.kind in ("classify", "tag", "extract"))
    return model.eval()


def _suited(kind: str) -> str:
    return {"seq2seq": "T5, BART or Marian", "causal": "chat", "masked": "BERT or RoBERTa"}.get(kind, "BERT or Llama")


def _check_body(model: PreTrainedModel, report: dict[str, Any], path: Path, *, fresh_head: bool) -> None:
    """Refuse a model of which anything but its new head (and BERT's pooler) was not in the files."""
    prefix = f"{model.base_model_prefix}."
    absent = sorted(
        str(name)
        for key in ("missing_keys", "mismatched_keys")
        for item in report.get(key, ())
        for name in [item[0] if isinstance(item, tuple) else item]
    )
    if fresh_head:
        absent = [name for name in absent if name.startswith(prefix) and ".pooler." not in name]
    if absent:
        raise ModelError(
            f"{len(absent)} weights of this model are missing or have another shape than config.json says",
            where=str(path), why=", ".join(absent[:5])[:400], fix="fetch the model again",
        )  # fmt: skip


def _refuse_quantised(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(
            "this is an adapter, not a model", where=str(path), fix="name its base model, and it as adapter"
        )
    if read_object(path / "config.json").get("quantization_config"):
        raise ModelError(
            "this model is stored quantised", where=f"{path / 'config.json'}: quantization_config",
            fix="name the unquantised model",
        )  # fmt: skip


def _refuse_other_kinds(path: Path) -> None:
    _refuse_quantised(path)
    config = read_object(path / "config.json")
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.get("model_type"))
    said = config.get("architectures") or [known]
    causal = {known} if isinstance(known, str) else set(known or ())
    if not causal or not isinstance(said, list) or not causal & set(map(str, said)):
        raise ModelError(
            f"this is not a causal language model: {', '.join(map(str, said if isinstance(said, list) else [said]))[:200]}",
            where=f"{path / 'config.json'}: architectures",
            why="a chat model writes one token after the other with a language-model head",
            fix="choose a model whose architecture ends in ForCausalLM",
        )


@contextmanager
def _blaming(file: Path, what: str, fix: str) -> Iterator[None]:
    """Call any error of tokenizers the file's fault: bare Exceptions, and Rust's panics, which are none and cannot be imported."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # Ctrl-C, say
            raise
        raise ModelError(what, where=str(file), why=_short(error), fix=fix) from error


def _of_one_id(vocabulary: dict[str, int]) -> str:
    """A pair of tokens that have one id, as "'a' and 'b' (7)"; empty when there is none."""
    names: dict[int, str] = {}
    for token, number in vocabulary.items():
        other = names.setdefault(number, token)
        if other != token:
            return f"{other!r} and {token!r} ({number})"
    return ""


def _rule(text: str) -> dict[str, object]:
    value = json.loads(text)
    return {key: value.get(key) for key in ("normalizer", "pre_tokenizer")}


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
